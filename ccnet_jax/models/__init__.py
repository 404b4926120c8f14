"""The network: `ccnet` is built from `resnet`, `context` and `criss_cross`."""
