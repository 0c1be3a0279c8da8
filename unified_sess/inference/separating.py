"""What a trained network does with signals and files; SpeechBrain's interface is added in `separation`."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unified_sess.inference.activity import active_tracks, frame_powers
from unified_sess.inference.passes import InPasses
from unified_sess.inference.runtime import model_name
from unified_sess.inference.windows import DEFAULT_WINDOWS, Windows
from unified_sess.model_io.model_files import load_model
from unified_sess.model_io.model_folder import CONFIG, ModelConfig, find_model
from unified_sess.model_io.results_folder import is_results_folder, load_trained_network
from unified_sess.network import ENHANCED_FROM, enhance_alone, separate, separate_and_enhance, set_effort
from unified_sess.utils.audio import Channel

if TYPE_CHECKING:
    from unified_sess.inference.voices.speakers import SpeakerNetwork


class Separating:
    """Separation and enhancement with the modules `mods`, for `num_spks` outputs at `sample_rate` Hz.

    `config` is the model's `ModelConfig`, None where it is unknown; `name` is what messages call the model;
    `enhanced_from` is what the enhanced mixture is made of, see `network.separate_and_enhance`.
    """

    mods: torch.nn.ModuleDict
    num_spks: int
    sample_rate: int
    config: ModelConfig | None = None
    name: str = "the model"
    enhanced_from: str = ENHANCED_FROM[0]
    inference_ctx: contextlib.AbstractContextManager = contextlib.nullcontext()

    @torch.no_grad()
    def run(self, mix: torch.Tensor, enhanced: bool = False) -> torch.Tensor:
        """Separate and, on request, enhance in one pass.

        Arguments
        ---------
        mix : torch.Tensor
            Mixtures of one length, `[batch, time]`, at the model's rate, on any device.
        enhanced : bool
            Also give the enhanced mixture.

        Returns
        -------
        torch.Tensor
            `[batch, time, speakers]`, or `[batch, time, speakers + 1]` with the enhanced mixture last.

        Raises
        ------
        ValueError
            When `mix` is not `[batch, time]`.
        """
        mix = self._checked(mix)
        if mix.numel() == 0:
            return mix.new_zeros(*mix.shape, self.num_spks + enhanced)
        with self.inference_ctx:
            if not enhanced:
                return separate(self.mods, mix).sources.float()
            sources, clean = separate_and_enhance(self.mods, mix, self.enhanced_from)
            return torch.cat((sources, clean.unsqueeze(2)), dim=2).float()

    def separate_batch(self, mix: torch.Tensor) -> torch.Tensor:
        """Mixtures `[batch, time]` to sources `[batch, time, speakers]`; any length from 1 sample."""
        return self.run(mix)

    @torch.no_grad()
    def enhance_batch(self, mix: torch.Tensor) -> torch.Tensor:
        """Mixtures `[batch, time]` to enhanced mixtures `[batch, time]`, all speakers together."""
        mix = self._checked(mix)
        if mix.numel() == 0:
            return mix
        with self.inference_ctx:
            return enhance_alone(self.mods, mix, self.enhanced_from).float()

    def separate_file(
        self,
        path: str | Path,
        savedir: str | Path | None = None,
        windows: Windows = DEFAULT_WINDOWS,
        channel: Channel = None,
        stream: int | None = None,
        passes: int = 1,
        voices: "SpeakerNetwork | None" = None,
    ) -> torch.Tensor:
        """Separate an audio file of any rate, length and channel count.

        It is read, resampled and separated as `unified-sess separate` does it, in windows where it is long; only the
        result is held in memory. All outputs are there, the silent ones too: `active` tells which hold anybody. Models
        trained with SI-SNR are free in level: their sources are brought to the scale of the mixture (`MixtureScale`).

        Arguments
        ---------
        path : str or Path
            A local file.
        savedir : None
            Taken for SpeechBrain's signature; nothing is saved.
        windows : Windows
            How a long file is cut.
        channel : int or str
            From 1, or `mean`; None takes the mean, or the loudest channel where channels cancel.
        stream : int
            Which audio stream of a film or meeting, from 1; None takes the first.
        passes : int
            At how many speeds every window is separated, see `InPasses`.
        voices : SpeakerNetwork
            Recognises voices in the place of the network that ships; None takes that.

        Returns
        -------
        torch.Tensor
            `[1, time, speakers]` at the model's rate, on the CPU.

        Raises
        ------
        UserError
            Naming the file when it cannot be read, windows or passes that cannot work, or the network of speakers where
            voices do not decide on the tracks.
        """
        from unified_sess.inference.files.recordings import Recording
        from unified_sess.inference.files.tracks import TrackOptions, check_voices, separate_to_tracks

        check_voices(voices, self)
        file = io.BytesIO()
        recording = Recording(path, channel, stream)
        model = self if passes == 1 else InPasses(self, passes)
        tracks = separate_to_tracks(
            model, recording, file, self.sample_rate, TrackOptions(windows=windows, voices=voices)
        )
        sources = np.frombuffer(file.getbuffer(), np.float32).reshape(-1, self.num_spks)
        return torch.from_numpy(sources * tracks.factors).unsqueeze(0)

    def active(self, sources: torch.Tensor, mixture: torch.Tensor | None = None) -> torch.Tensor:
        """Which outputs hold anybody.

        An output is silent when its loudest second lies below the model's threshold (`silence_threshold` of
        `config.json`; -40 dB for models without it), relative to the loudest second of the mixture; and, of models with
        that key, when it is but an echo of another one (`inference.activity.active_tracks`).

        Arguments
        ---------
        sources : torch.Tensor
            `[batch, time, speakers]`, as `separate_file` and `separate_batch` give them.
        mixture : torch.Tensor
            `[batch, time]` at the scale of the sources; without it the loudest output stands for the mixture.

        Returns
        -------
        torch.Tensor
            bool `[batch, speakers]`.

        Example
        -------
        >>> model = Separator({}, ModelConfig({}, 2, 8000))
        >>> sources = torch.randn(1, 8000, 2) * torch.tensor([1.0, 1e-4])
        >>> model.active(sources)
        tensor([[ True, False]])
        """
        found = []
        for k, tracks in enumerate(sources.detach().cpu().numpy()):
            powers = frame_powers(tracks, self.sample_rate)
            whole = None
            if mixture is not None:
                whole = frame_powers(mixture[k].detach().cpu().numpy()[:, None], self.sample_rate)[:, 0]
            found.append(active_tracks(powers, whole, self.silence_threshold))
        return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, self.num_spks, dtype=torch.bool)

    @property
    def silence_threshold(self) -> float | None:
        """See `Runtime`."""
        return self.config.silence_threshold if self.config is not None else None

    def separate_windows(self, mixtures: np.ndarray, enhanced: bool = False) -> np.ndarray:
        """The same as `run`, with arrays; see `Runtime`."""
        return self.run(torch.from_numpy(mixtures), enhanced).cpu().numpy()

    def digest(self) -> str:
        """32 hexadecimal digits of all that the outputs depend on, the same on any device."""
        unknown = [repr(self.mods), self.silence_threshold, self.enhanced_from]
        network = unknown if self.config is None else self.config._asdict()
        digest = hashlib.sha256(json.dumps([network, self.num_spks, self.sample_rate], sort_keys=True).encode())
        for name, tensor in sorted(self.mods.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:32]

    def set_effort(self, effort: int) -> None:
        """See `network.set_effort`."""
        set_effort(self.mods, effort)

    @contextlib.contextmanager
    def shared_by(self, jobs: int) -> Iterator[None]:
        """Meanwhile each of so many recordings at a time has its share of torch's threads."""
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // jobs))
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def _checked(self, mix):
        if mix.dim() != 2:
            raise ValueError(f"mixtures must be [batch, time], not {list(mix.shape)}")
        parameter = next(self.mods.encoder.parameters())
        return mix.to(parameter.device, torch.float32)


class Separator(Separating):
    """A trained network without SpeechBrain's interface, which takes long to import; the command uses it.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder.
    config : ModelConfig
    device : str
        `cpu`, `cuda`, ...; None takes a GPU where there is one.
    name : str
        What messages call the model.
    """

    def __init__(self, modules: dict, config: ModelConfig, device: str | None = None, name: str = "the model") -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.mods = torch.nn.ModuleDict(modules).to(self.device).eval().requires_grad_(False)
        self.config, self.name = config, name
        self.num_spks, self.sample_rate, self.enhanced_from = config.num_spks, config.sample_rate, config.enhanced_from

    @classmethod
    def load(cls, source: str | Path | None = None, device: str | None = None) -> "Separator":
        """Load a model without executing anything of it; see `UnifiedSeparation.from_pretrained`."""
        _, config, modules = read_model(source)
        return cls(modules, config, device, model_name(source))


def read_model(source: str | Path | None, **download_options: Any) -> tuple[Path, ModelConfig, dict]:
    """Folder, `ModelConfig` and modules of a model folder, a hub id, a results folder or (None) the shipped model."""
    folder = find_model(source, **download_options)
    results = not (folder / CONFIG).is_file() and is_results_folder(folder)
    return folder, *(load_trained_network if results else load_model)(folder)
