"""NeMo AutoModel asks for a CUDA device by name even where a recipe's backend is gloo: here it is given the CPU.

    torchrun --standalone --nproc-per-node 2 cpu_shim.py recipe.yaml --dist_env.backend gloo

Nothing of the recipe is changed but what is said on the command line. For tests only: it is a way to run the tool's own loop on a
machine without a GPU, not a way to train.
"""

import sys

import torch

REAL = torch.device
CPU = REAL("cpu")


class AnyDevice(type):
    """What `isinstance(x, torch.device)` asks."""

    def __instancecheck__(cls, thing: object) -> bool:
        return isinstance(thing, REAL)


class Device(metaclass=AnyDevice):
    """`torch.device`, but for a CUDA device, of which this machine has none."""

    def __new__(cls, kind="cpu", *more, **named):
        return CPU if str(kind).startswith("cuda") else REAL(kind, *more, **named)


def main(path: str, overrides: list[str]) -> None:
    """Run the recipe in this process, one of torchrun's."""
    from nemo_automodel.cli.utils import load_yaml, resolve_recipe_name
    from nemo_automodel.components.config._arg_parser import parse_args_and_load_config
    from nemo_automodel.components.launcher.interactive import resolve_recipe_cls

    kind = resolve_recipe_cls(resolve_recipe_name(load_yaml(path)["recipe"]))
    recipe = kind(parse_args_and_load_config(path, argv=overrides))
    torch.device = Device
    torch.cuda.current_device = lambda: CPU
    torch.cuda.max_memory_allocated = lambda *_: 0
    for name in ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats"):
        setattr(torch.cuda, name, lambda *_: None)
    recipe.setup()
    recipe.run_train_validation_loop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
