"""PyTorch's names, files and arrays of weights; pretrained backbones; import and export."""
