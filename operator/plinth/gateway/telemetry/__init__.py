"""What is told of requests that are over: lines of an access log, numbers, traces. Pure.

The data path makes one `RequestRecord` when a request ends, and nothing else; the rest happens between requests.
"""
