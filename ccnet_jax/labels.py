"""What every room knows of label pictures."""

VOID = 255  # the label of pixels that count nowhere
