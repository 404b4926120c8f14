"""The network: `ccnet` joins a member of `BACKBONES` and a member of `CONTEXTS`, in one of the `FLAVOURS`."""
