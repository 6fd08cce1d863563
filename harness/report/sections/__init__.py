"""One file = one section: TITLE, ORDER, `render(frame) -> str`, escaped unless marked safe. Found by listing this folder."""
