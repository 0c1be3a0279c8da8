"""A page to separate recordings in the browser, served by this machine: `unified-sess app` (extra `app`).

`server` serves the page, `page` is what people see, `sessions` what happens when they press a button. `separation` is
the work on one recording, on the same way as `unified-sess separate`; `tasks` does one work after the other, `storage`
keeps the sounds and deletes them, `pictures` draws them.
"""
