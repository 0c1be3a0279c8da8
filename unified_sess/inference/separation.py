"""Enhancement and separation of recordings with a trained network, in SpeechBrain's interface."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, PyTorchModelHubMixin
from speechbrain.inference.interfaces import Pretrained

from unified_sess.inference.runtime import model_name
from unified_sess.inference.separating import Separating, read_model
from unified_sess.model_io.composite import CompositeMaskNet
from unified_sess.model_io.model_card import read_evaluations, write_model_card
from unified_sess.model_io.model_files import is_exported, load_model, read_config, save_model
from unified_sess.model_io.model_folder import CONFIG, ModelConfig
from unified_sess.model_io.weights import load_checkpoint
from unified_sess.network import ENHANCED_FROM, MODULE_NAMES, NoEnhancer
from unified_sess.utils.errors import UserError


class UnifiedSeparation(
    Separating, Pretrained, PyTorchModelHubMixin, library_name="unified_sess", pipeline_tag="audio-to-audio"
):
    """A trained network that enhances and separates.

    `from_pretrained` reads `config.json` and `model.safetensors` and executes nothing of the folder; use it for
    untrusted models. `from_hparams` runs what the folder's `hyperparams.yaml` says, as SpeechBrain does.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder. Without an enhancer the network separates alone; a composite masknet is
        taken apart.
    hparams : dict
        With `num_spks` and `sample_rate` (Hz).
    **kwargs
        `run_opts={"device": "cuda"}`, `freeze_params`: see SpeechBrain's `Pretrained`.

    Raises
    ------
    UserError
        When a module is missing.

    Example
    -------
    >>> from unified_sess.nnet.conv_tasnet import MaskNet
    >>> from speechbrain.lobes.models.dual_path import Decoder, Encoder
    >>> modules = {"encoder": Encoder(16, 8), "masknet": MaskNet(8, 8, 8, 3, 2, 1, 2), "decoder": Decoder(8, 1, 16, 8)}
    >>> model = UnifiedSeparation(modules, {"num_spks": 2, "sample_rate": 8000})
    >>> model.separate_batch(torch.randn(3, 400)).shape
    torch.Size([3, 400, 2])
    """

    MODULES_NEEDED = ("encoder", "masknet", "decoder")
    HPARAMS_NEEDED = ("num_spks", "sample_rate")

    def __init__(
        self, modules: Mapping[str, torch.nn.Module] | None = None, hparams: dict | None = None, **kwargs: Any
    ) -> None:
        modules = dict(modules or {})
        missing = [name for name in self.MODULES_NEEDED if name not in modules]
        if missing:
            raise UserError(f"the model has no {', '.join(missing)}")
        if isinstance(modules["masknet"], CompositeMaskNet):
            modules["enhancer"] = modules["masknet"].enhancer
            modules["masknet"] = modules["masknet"].masknet
        modules.setdefault("enhancer", NoEnhancer())
        super().__init__({name: modules[name] for name in MODULE_NAMES}, hparams, **kwargs)
        self.config: ModelConfig | None = None
        self.evaluations: list[EvalResult] = []  # both for the files that `save_pretrained` writes

    # Read-only here, where the classes above have plain attributes: mypy cannot know that nobody sets them.
    @property
    def num_spks(self) -> int:  # type: ignore[override]
        """Number of sources."""
        return self.hparams.num_spks

    @property
    def sample_rate(self) -> int:  # type: ignore[override]
        """Rate in Hz that signals must have."""
        return self.hparams.sample_rate

    @property
    def enhanced_from(self) -> str:  # type: ignore[override]
        """What the enhanced mixture is made of: `enhancer` or `sources`, see `network.separate_and_enhance`."""
        return getattr(self.hparams, "enhanced_from", ENHANCED_FROM[0])

    @property
    def silence_threshold(self) -> float | None:
        """See `Runtime`; known too where the model came through its `hyperparams.yaml`."""
        return getattr(self.hparams, "silence_threshold", None)

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        """The same as `separate_batch`."""
        return self.run(mix)

    @classmethod
    def from_hparams(
        cls, source: str | Path, hparams_file: str = "hyperparams.yaml", **kwargs: Any
    ) -> "UnifiedSeparation":
        """Load an exported folder, or a hub model, through its `hyperparams.yaml`; see SpeechBrain's `Pretrained`.

        The YAML file and the checkpoints of the source are executed and unpickled: use it for models that you trust.

        Raises
        ------
        UserError
            When a local folder lacks a file or has a corrupt one.
        """
        folder = Path(source) if isinstance(source, (str, Path)) and Path(source).is_dir() else None
        if folder is None:
            return super().from_hparams(source, hparams_file, **kwargs)
        kwargs.pop("savedir", None)  # a local folder needs no links, which would go stale under the names of another
        try:
            model = super().from_hparams(str(folder), hparams_file, **kwargs)
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError(f"{error.filename or folder} is missing: export the model again") from None
        except Exception as error:  # noqa: BLE001 - a YAML file can call anything, so anything can come out of it
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"the model in {folder} cannot be loaded ({lines[-1].strip()}): export it again") from None
        model.name = model_name(folder)
        if is_exported(folder):
            for name in MODULE_NAMES:  # SpeechBrain takes a file that lacks weights and leaves those random
                load_checkpoint(model.mods[name], folder / f"{name}.ckpt")
            model.config, model.evaluations = read_config(folder / CONFIG), read_evaluations(folder)
        return model

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a download takes the same options by keyword
        cls, source: str | Path | None = None, *, device: str | None = None, **download_options: Any
    ) -> "UnifiedSeparation":
        """Load a model without executing anything of it.

        Arguments
        ---------
        source : str or Path
            A folder made by `unified-sess export` or `save_pretrained`, a hub id such as `user/model`, or the results
            folder of a training; None for the model shipped with this package.
        device : str
            `cpu`, `cuda`, ...; None takes a GPU where there is one.
        **download_options
            `revision`, `token`, `cache_dir`, `force_download`, `local_files_only` for a hub id.

        Raises
        ------
        UserError
            When there is no such model, a file is missing, corrupt or names a class that model files may not use.
        """
        folder, config, modules = read_model(source, **download_options)
        hparams = {name: value for name, value in config._asdict().items() if name != "modules"}
        model = cls(modules, hparams, run_opts=None if device is None else {"device": str(device)})
        model.config, model.name, model.evaluations = config, model_name(source), read_evaluations(folder)
        return model

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write a model folder, in place of another model of ours that lies there; see `huggingface_hub.ModelHubMixin`.

        A card that is there stays, unless it is that of the other model.

        Raises
        ------
        UserError
            Where the model came from no exported folder, or the folder holds files that no export wrote.
        """
        from unified_sess.model_io.export import clear_model_folder

        if self.config is None:  # before the hub's own class takes the old config.json away
            raise UserError("this model was not loaded from an exported folder: use unified-sess export")
        folder = Path(save_directory)
        if not is_exported(folder):
            clear_model_folder(folder, any_card=True)
        elif not self._is_in(folder):
            clear_model_folder(folder)
            (folder / "README.md").unlink(missing_ok=True)
        return super().save_pretrained(save_directory, **kwargs)

    def _save_pretrained(self, save_directory):
        """What `save_pretrained` and `push_to_hub` write: `config.json`, `model.safetensors` and a model card."""
        if not (Path(save_directory) / "README.md").exists():
            write_model_card(save_directory, self.config, self.mods, self.evaluations)
        save_model(save_directory, self.config, self.mods)

    def _is_in(self, folder):
        """Whether a model folder holds this model."""
        try:
            config, modules = load_model(folder)
        except UserError:  # a broken one
            return False
        other = {name: module.state_dict() for name, module in modules.items()}
        return config == self.config and all(
            torch.equal(value.cpu(), other[name][key])
            for name, module in self.mods.items()
            for key, value in module.state_dict().items()
        )
