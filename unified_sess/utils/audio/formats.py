"""The kinds of sound files that can be read, and the depth that results are written with."""

import os

# What libsndfile reads.
SOUND_EXTENSIONS = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".caf", ".w64", ".rf64",
    ".au", ".snd", ".sph",
)  # fmt: skip
# What PyAV reads (the extra `media`): recordings of phones, meetings and cameras.
MEDIA_EXTENSIONS = (
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".aac", ".amr", ".webm", ".weba", ".mka", ".mkv", ".wma",
    ".ac3",
)  # fmt: skip
AUDIO_EXTENSIONS = SOUND_EXTENSIONS + MEDIA_EXTENSIONS

# Depths of sound files that results can have. All others (MP3, AAC, Opus, mu-law, ...) are lossy: 24 bits keep them.
SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT")
_DEPTH = {"PCM_S8": "PCM_16", "PCM_U8": "PCM_16", "DOUBLE": "FLOAT"} | {name: name for name in SUBTYPES}
_DEPTH |= {"ALAC_16": "PCM_16", "ALAC_24": "PCM_24", "ALAC_32": "PCM_32"}
LOSSY_DEPTH = "PCM_24"
DEEPEST_FLAC = "PCM_24"


def is_audio(name: str | os.PathLike) -> bool:
    """Whether a file's name ends as those of sound files do.

    Example
    -------
    >>> is_audio("Meeting 3.M4A"), is_audio("notes.txt")
    (True, False)
    """
    return os.fspath(name).lower().endswith(AUDIO_EXTENSIONS)


def result_subtype(subtype: str, extension: str = "wav") -> str:
    """Depth of a result, from the depth of its recording: the same, at least 16 bits, 24 bits of a lossy one.

    Arguments
    ---------
    subtype : str
        Of the recording, in libsndfile's names (`AudioInfo.subtype`).
    extension : str
        Of the result; FLAC holds 24 bits at most.

    Example
    -------
    >>> result_subtype("MPEG_LAYER_III"), result_subtype("FLOAT"), result_subtype("FLOAT", "flac")
    ('PCM_24', 'FLOAT', 'PCM_24')
    """
    depth = _DEPTH.get(subtype, LOSSY_DEPTH)
    return DEEPEST_FLAC if extension.lstrip(".") == "flac" and depth in ("PCM_32", "FLOAT") else depth
