"""Streams that survive their replica: what is asked, recorded, asked again and joined. Pure.

The steps, in order: `asked` adds to a streamed request what a continuation needs, `events` edits and records each
event on its way to the client, `pace` says when silence is a hang, `manner` says whether and how a broken stream
goes on, `continuation` what is asked of another replica, `splice` how its answer joins the client's stream.
"""
