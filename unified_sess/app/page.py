"""What people see: a page of Gradio without anything from the network."""

import html
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from unified_sess.app.separation import ENHANCED, NOISE, RECORDING, Separated
from unified_sess.app.sessions import Progress, Sessions
from unified_sess.inference.passes import SPEEDS
from unified_sess.network import most_effort

TITLE = "unified_sess: clean a recording and separate its speakers"
INTRODUCTION = (
    "# Clean a recording and separate its speakers\n"
    "Sounds stay on the machine that serves this page, and are deleted when it ends or this tab is closed."
)
FONT = gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")  # of the system: web fonts would be a request outside
THEME = gr.themes.Default(font=FONT, font_mono=[gr.themes.Font("monospace")])
HIDDEN = "hidden"  # and there: what Gradio must build first misses its value
CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important }
#status { min-height: 3.5em }
#status progress { width: 100%; height: 0.8em; accent-color: #2a6f97 }
#status .error { color: #b3261e; font-weight: 600 }
.dark #status .error { color: #ff8a80 }
.sound h3 { margin: 0 }
"""
TEXTS = {
    RECORDING: "The recording, in the channel that was separated",
    ENHANCED: "The cleaned recording: everybody, without the noise",
    NOISE: "The noise: what the people leave of the recording",
}
PASSES = "Passes: more are better, and take longer"


def build_page(sessions: Sessions) -> gr.Blocks:
    """The page for the models of `sessions`; people see the first one chosen."""
    models = sessions.models
    first = next(iter(models))
    most = max(model.num_spks for model in models.values())
    kinds = [RECORDING, ENHANCED, *(f"s{k + 1}" for k in range(most)), NOISE]
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=3):
                with gr.Tab("Drop a sound"):
                    file = gr.File(label="Audio or film, of any length", height=180, elem_id="file")
                with gr.Tab("Record"):
                    spoken = gr.Audio(sources=["microphone"], type="filepath", label="Microphone", elem_id="spoken")
            with gr.Column(scale=2):
                model = gr.Dropdown(list(models), value=first, label="Model", elem_id="model")
                people = gr.Dropdown(**_people(models[first]), label="People", elem_id="people")
                effort = gr.Slider(**_effort(models[first]), step=1, elem_id="effort")
                passes = gr.Slider(1, len(SPEEDS), value=1, step=1, label=PASSES, elem_id="passes")
        with gr.Row():
            separate = gr.Button("Separate", variant="primary", elem_id="separate")
            cancel = gr.Button("Cancel", interactive=False, elem_id="cancel")
        status = gr.HTML(elem_id="status")
        cards = {kind: _Card(kind) for kind in kinds}

        async def run(file, spoken, model, people, effort, passes, request: gr.Request) -> AsyncIterator[dict]:
            yield {separate: gr.update(interactive=False), cancel: gr.update(interactive=True)} | _hidden(cards)
            choices = {"num_spks": people, "effort": effort, "passes": int(passes)}
            async for progress in sessions.separate(_session(request), file or spoken, model, **choices):
                updates: dict[Any, Any] = {status: _status(progress)}
                if progress.ended:
                    updates |= {separate: gr.update(interactive=True), cancel: gr.update(interactive=False)}
                if progress.result:
                    updates |= _shown(cards, progress.result)
                yield updates

        def chosen(name):
            return gr.update(**_people(models[name])), gr.update(**_effort(models[name]))

        def stop(request: gr.Request):
            sessions.cancel(_session(request))

        def close(request: gr.Request):
            sessions.close(_session(request))

        outputs = [separate, cancel, status, *(part for card in cards.values() for part in card.parts())]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        separate.click(run, [file, spoken, model, people, effort, passes], outputs, concurrency_limit=None, **private)
        cancel.click(stop, queue=False, **private)
        model.change(chosen, model, [people, effort], queue=False, **private)

        def given(path, request: gr.Request):
            sessions.uploaded(_session(request), path)

        # The sound that was given last counts.
        file.upload(given, file, spoken, queue=False, **private)
        spoken.stop_recording(given, spoken, file, queue=False, **private)
        page.unload(close)
    return page


def _session(request: gr.Request) -> str:
    return str(request.session_hash)  # Gradio gives each tab one


class _Card:
    """The place of a sound: its name, its picture, a player and a button that downloads it."""

    def __init__(self, kind):
        with gr.Column(visible=HIDDEN, elem_id=f"sound-{kind}", elem_classes="sound") as self.column:
            self.heading = gr.Markdown()
            self.picture = gr.Image(
                show_label=False, container=False, interactive=False, buttons=[], alt_text="Waveform and spectrogram"
            )
            with gr.Row(equal_height=True):
                self.player = gr.Audio(
                    show_label=False,
                    container=False,
                    interactive=False,
                    buttons=[],
                    scale=5,
                    waveform_options=gr.WaveformOptions(show_recording_waveform=False),  # the browser's own player
                )
                self.download = gr.DownloadButton("Download", scale=1, min_width=120)

    def parts(self):
        return self.column, self.heading, self.picture, self.player, self.download


def _shown(cards: dict[str, _Card], separated: Separated) -> dict:
    updates: dict[Any, Any] = {}
    for sound in separated.sounds:
        card = cards[sound.kind]
        text = TEXTS.get(sound.kind) or f"Person {sound.kind[1:]}, who talks for {sound.speech:.1f} s"
        updates[card.column] = gr.update(visible=True)
        updates[card.heading] = f"### {text}"
        updates[card.picture] = str(sound.picture)
        updates[card.player] = updates[card.download] = str(sound.path)
    return updates


def _hidden(cards):
    updates = {}
    for card in cards.values():
        updates |= {card.column: gr.update(visible=HIDDEN), card.picture: None, card.player: None, card.download: None}
    return updates


def _status(progress: Progress) -> str:
    if progress.error:
        return f'<p class="error" role="alert">{html.escape(progress.error)}</p>'
    if progress.result is not None:
        found = progress.result
        count = "nobody" if not found.people else f"{found.people} {'person' if found.people == 1 else 'people'}"
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in found.notes)
        return f'<p role="status">Done: {count} in {found.duration:.1f} s</p><ul>{notes}</ul>'
    if progress.ended:
        return f'<p role="status">{html.escape(progress.doing)}</p>'
    bar = f'<progress max="1" value="{progress.share:.3f}" aria-label="Progress"></progress>'
    return f'<p role="status">{html.escape(progress.doing)}</p>{bar}'


def _people(model):
    numbers = [(str(k + 1), k + 1) for k in range(model.num_spks)]
    return {"choices": [("Those who are heard", 0), *numbers], "value": 0}


def _effort(model):
    most = most_effort(model.mods)
    return {"minimum": 1, "maximum": max(most, 2), "value": most, "label": "Effort: 1 is fastest", "visible": most > 1}
