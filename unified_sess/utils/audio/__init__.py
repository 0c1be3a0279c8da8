"""Reading and writing sound files; every failure is one line that names the file.

`audio_info` tells what a file holds, `measure_levels` also how loud its channels are, `read_audio` reads a part of it,
`read_blocks` all of it piece by piece, `write_audio` writes one. All decode through `decoding.open_stream`.
"""

from unified_sess.utils.audio.channels import Channel, ChannelChoice, Levels, choose_channel, take
from unified_sess.utils.audio.decoding import open_stream, sound_path
from unified_sess.utils.audio.formats import AUDIO_EXTENSIONS, SUBTYPES, is_audio, result_subtype
from unified_sess.utils.audio.probing import AudioInfo, audio_info, measure_levels, of_size, read_blocks
from unified_sess.utils.audio.reading import read_audio
from unified_sess.utils.audio.writing import write_audio

__all__ = [
    "AUDIO_EXTENSIONS", "SUBTYPES", "AudioInfo", "Channel", "ChannelChoice", "Levels", "audio_info", "choose_channel",
    "is_audio", "measure_levels", "of_size", "open_stream", "read_audio", "read_blocks", "result_subtype", "sound_path", "take",
    "write_audio",
]  # fmt: skip
