"""Well-formed bytes for each property, from which trials are made by taking apart, mixing and spoiling."""

from __future__ import annotations

import re

_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
_CHAT = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]'
_NAMED = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":""},"finish_reason":null}],"prompt_token_ids":[1,2]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"Hel"},"logprobs":null,"finish_reason":null,"token_ids":[3]}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"lo\\""},"logprobs":null,"finish_reason":null,"token_ids":[4,5]}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3}}\n\ndata: [DONE]\n\n'
)
_COMPLETED = (
    b'data: {"choices":[{"index":0,"text":"a","finish_reason":null,"token_ids":[3]}],"id":"c","object":'
    b'"text_completion"}\n\ndata: {"choices":[{"index":0,"text":"b","finish_reason":"stop","token_ids":[4]}]}\n\n'
)
_TOOLS = (
    b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\ndata: {"choices":[{"delta":{"tool_calls":[{"index":0,'
    b'"id":"t","type":"function","function":{"name":"f","arguments":"{"}}]}}]}\n\ndata: {"choices":[{"delta":'
    b'{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]},"finish_reason":"tool_calls"}]}\n\n: still here\n\n'
    b'data: {"error":{"message":"out of memory"}}\n\n'
)

SEEDS: dict[str, tuple[bytes, ...]] = {
    "requests_read_the_same_in_pieces": (
        _HEAD + b"Content-Length: 3\r\nX-Request-Id: a-1\r\n\r\nabcGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n",
        _HEAD
        + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
        b"GET /v1/models?a=b HTTP/1.0\r\nConnection: keep-alive\r\n\r\nHEAD / HTTP/1.1\r\nHost:\r\n\r\n",
    ),
    "answers_read_the_same_in_pieces": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab",
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\nuntil it closes",
    ),
    "events_pass_whole_and_all": (_NAMED, _TOOLS.replace(b"\n", b"\r\n"), b": ping\n\ndata: a\ndata: b\n\n"),
    "edited_streams_can_break_anywhere": (
        _CHAT + b',"temperature":0}\0' + _NAMED,
        _CHAT + b',"tools":[{}],"stop":["abc"],"max_tokens":5}\0' + _NAMED.replace(b"content", b"reasoning"),
        _CHAT + b"}\0" + _TOOLS,
        b'{"prompt":"once","stream":true,"stream_options":{"include_usage":true}}\0' + _COMPLETED,
        b'{"prompt":[1,2],"stream":true,"stop":"ab"}\0' + _COMPLETED.replace(b'"token_ids"', b'"ids"'),
    ),
    "requests_are_translated_or_refused": (
        (
            b'{"max_tokens":9,"system":[{"type":"text","text":"be"}],"messages":[{"role":"user","content":[{"type":"image",'
            b'"source":{"type":"base64","media_type":"image/png","data":"AA=="}},{"type":"tool_result","tool_use_id":"t",'
            b'"is_error":true,"content":"no"}]},{"role":"assistant","content":[{"type":"thinking","thinking":"hm"},'
            b'{"type":"tool_use","id":"t","name":"f","input":{"a":[1]}}]}],"stop_sequences":["x"],"stream":true,'
            b'"tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"tool","name":"f"},"thinking":'
            b'{"type":"enabled"},"output_config":{"effort":"low","format":{"schema":{}}},"metadata":{"user_id":"u"}}'
        ),
        (
            b'{"input":[{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"u",'
            b'"detail":"low"}]},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},{"type":"reasoning",'
            b'"summary":[{"text":"s"}]},{"type":"function_call_output","call_id":"c","output":"o"}],"instructions":"i",'
            b'"tools":[{"type":"function","name":"f","parameters":{}}],"tool_choice":{"type":"allowed_tools","mode":"auto",'
            b'"tools":[{"name":"f"}]},"text":{"format":{"type":"json_schema","name":"n","schema":{}}},"top_logprobs":1,'
            b'"include":["message.output_text.logprobs"],"max_output_tokens":5,"reasoning":{"effort":"low"}}'
        ),
        b'{"prompt":"a","add_special_tokens":false,"return_token_strs":true,"tokens":[1,2]}',
        b'{"queries":["q"],"documents":["a","b"],"user":"u"}',
    ),
    "answers_are_translated_or_given_up": (
        (
            b'{"choices":[{"message":{"content":"a","reasoning":"b","tool_calls":[{"id":"t","function":{"name":"f",'
            b'"arguments":"{}"}}]},"finish_reason":"stop","stop_reason":"x","logprobs":{"content":[{}]}}],"model":"m",'
            b'"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":1}}}'
        ),
        _NAMED,
        _TOOLS,
        b'{"tokens":[{"id":1,"piece":[255]}]}',
        b'{"content":"a"}',
        b'{"results":[{"index":1,"relevance_score":0.5},{"index":0,"relevance_score":1}],"model":"m"}',
    ),
    "bodies_are_read_or_refused": (
        _CHAT + b',"temperature":0,"seed":1.0,"tools":[],"n":1}',
        b'{"model":"m@awq","stream":null,"prompt":["a",[1]],"logprobs":0}',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]}',
    ),
    "nobody_gets_in_by_rubbish": (
        b"Bearer sk-plinth-abc\0sk-plinth-abc",
        b"Basic YTpi\0",
        b"bearer  \xff\0 ",
    ),
    "control_lines_are_read_or_refused": (
        (
            b'{"type":"table","version":2,"models":[{"model":"t/m","names":["m"],"task":"Generate","created":1,'
            b'"availability":"Available","message":"","replicas":[{"slot":"s","host":"127.0.0.1","port":80,"path":"/p",'
            b'"state":"Ready","concurrency":4}]}]}'
        ),
        (
            b'{"type":"access","version":1,"keys":[{"id":"pk_1","tenant":"t","digest":"d","expires_at":5}],"policies":'
            b'[{"name":"t/p","limits":[{"dimension":"requests","window_seconds":60,"amount":5,"scope":"key"}]}]}'
        ),
        b'{"type":"shutdown","deadline_seconds":1.5}',
        b'{"type":"report","gateway":"g","table_version":1,"models":{}}',
    ),
    "replies_of_redis_read_the_same_in_pieces": (
        b"+OK\r\n-ERR no\r\n:7\r\n$2\r\nab\r\n$-1\r\n*2\r\n:1\r\n*1\r\n$0\r\n\r\n*-1\r\n",
    ),
}

_TOKENS = re.compile(rb'"[^"]{0,40}"|[A-Za-z_-]+|[0-9]+|\r\n|\n\n|.', re.DOTALL)


def tokens_of(name: str) -> list[bytes]:
    """What the seeds of a property are made of."""
    return sorted({token for seed in SEEDS[name] for token in _TOKENS.findall(seed)})
