"""Ways from a request to kernels; each is an `Engine` (see `subkern.kernels.request`).

* `tiled`: blocks of factors, tile by tile (sgd, and LoRA sweeps);
* `signs`: packed signs, example by example (signgd);
* `updates`: every gradient entry once, parameter by parameter (the other rules, or all together);
* `projected`: coordinates of a random subspace;
* `reference`: slow and independent, by `torch.func`.
"""
