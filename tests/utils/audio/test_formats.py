"""Extensions, and the depth of results."""

import numpy as np
import pytest
import soundfile

from unified_sess.utils.audio import audio_info, is_audio, result_subtype
from unified_sess.utils.audio.formats import SOUND_EXTENSIONS

OPTIONS = {
    ".ogg": ("OGG", "VORBIS"), ".oga": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".wav": ("WAV", "PCM_16"), ".wave": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"), ".aifc": ("AIFF", "FLOAT"), ".caf": ("CAF", "PCM_16"), ".w64": ("W64", "PCM_16"),
    ".rf64": ("RF64", "PCM_16"), ".au": ("AU", "PCM_16"), ".snd": ("AU", "PCM_16"), ".sph": ("NIST", "PCM_16"),
}  # fmt: skip


@pytest.mark.parametrize("extension", SOUND_EXTENSIONS)
def test_every_extension_is_read(tmp_path, extension):
    form, subtype = OPTIONS[extension]
    path = tmp_path / f"a{extension.upper()}"
    soundfile.write(path, 0.1 * np.sin(np.arange(16000) / 9), 16000, format=form, subtype=subtype)
    assert is_audio(path) and audio_info(path) == (16000, 16000, 1, subtype, 0.0)


@pytest.mark.parametrize(
    "subtype, wav, flac",
    [
        ("PCM_U8", "PCM_16", "PCM_16"), ("PCM_16", "PCM_16", "PCM_16"), ("PCM_24", "PCM_24", "PCM_24"),
        ("PCM_32", "PCM_32", "PCM_24"), ("FLOAT", "FLOAT", "PCM_24"), ("DOUBLE", "FLOAT", "PCM_24"),
        ("VORBIS", "PCM_24", "PCM_24"), ("AAC", "PCM_24", "PCM_24"), ("ULAW", "PCM_24", "PCM_24"),
    ],
)  # fmt: skip
def test_results_keep_the_depth(subtype, wav, flac):
    assert (result_subtype(subtype), result_subtype(subtype, "flac")) == (wav, flac)
