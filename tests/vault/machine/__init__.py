"""Any sequence of operations of several hosts against a model: `state` and `steps` are the model, `troubles` what
befalls requests, `world` the hosts."""
