"""How Resemblyzer hears the speakers of a training: its network has learnt from thousands of people.

Resemblyzer (https://github.com/resemble-ai/Resemblyzer, Apache-2.0) is not installed: `pip download --no-deps resemblyzer`
and the file `resemblyzer/pretrained.pt` in the wheel are enough. Its voices are those of GE2E (arXiv 1710.10467).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr
import torch
import torch.nn.functional as F
import torchaudio
from torch import nn
from tqdm import tqdm

from unified_sess.data.own_folders.speech_folders import IndexedRecording, read_recording
from unified_sess.utils.errors import UserError

RATE, FRAME, HOP, BANDS = 16000, 400, 160, 40  # Hz and samples, of the teacher
WINDOW, STEP = 160, 80  # frames that it hears at once, and from one window to the next
RMS = 10 ** (-30 / 20)  # to which it wants its speech


class Teacher(nn.Module):
    """The network of Resemblyzer with its weights."""

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(BANDS, 256, 3, batch_first=True), nn.Linear(256, 256)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
            self.load_state_dict(
                {name: value for name, value in state.items() if name.startswith(("lstm.", "linear."))}
            )
        except Exception:  # whatever the file holds
            raise UserError(f"{weights} is not Resemblyzer's pretrained.pt, or cannot be read") from None
        self.bands = torchaudio.functional.melscale_fbanks(FRAME // 2 + 1, 0, RATE / 2, BANDS, RATE, "slaney", "slaney")

    @torch.no_grad()
    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """The voice `[256]`, of length 1, of speech `[time]` at 16 kHz."""
        signal = signal * RMS / signal.square().mean().sqrt().clamp_min(1e-6)
        spectrum = torch.stft(
            signal, FRAME, HOP, window=torch.hann_window(FRAME), pad_mode="constant", return_complex=True
        )
        mel = spectrum.abs().square().T @ self.bands
        windows = F.pad(mel, (0, 0, 0, max(0, WINDOW - len(mel)))).unfold(0, WINDOW, STEP).transpose(1, 2)
        voices = F.normalize(self.linear(self.lstm(windows)[1][0][-1]).relu(), dim=1)
        return F.normalize(voices.mean(0), dim=0)


def voices_of(recordings: Sequence[IndexedRecording], speakers: Sequence[str], weights: str | Path) -> torch.Tensor:
    """The voice of each speaker `[speakers, 256]`, of length 1, without what all of them have in common.

    Takes some five minutes of one core for five hours of speech.
    """
    teacher = Teacher(weights).eval()
    heard = []
    for recording in tqdm(recordings, desc="voices as the teacher hears them"):
        signal = read_recording(recording, 0, recording.frames)
        heard.append(teacher(torch.from_numpy(soxr.resample(signal, recording.sample_rate, RATE).astype(np.float32))))
    voices = torch.stack(heard)
    voices = F.normalize(voices - voices.mean(0), dim=1)
    own = [[k for k, recording in enumerate(recordings) if recording.speaker == speaker] for speaker in speakers]
    return F.normalize(torch.stack([voices[mine].mean(0) for mine in own]), dim=1)
