/* Replicas that cost next to nothing: fixed answers, and streams of so many events at a steady pace.

       backend REPLICAS MILLISECONDS_BETWEEN_EVENTS EVENTS_A_STREAM AWAKE

   AWAKE is 1 if it is to spin where it would sleep: see wire.h.
   Prints its ports, one for each replica, and ends with its standard input. A GET is answered by what routers ask of
   an engine before they use it, with the streams so far and how many of them were asked to name their tokens. */
#include "wire.h"
#include <stdbool.h>
#include <sys/timerfd.h>

#define HEAD "HTTP/1.1 200 OK\r\ncontent-type: "
#define PROMPT_IDS 250 /* of a prompt of about 1 KB */

struct connection {
    int fd;
    bool streaming, names_tokens, tells_usage;
    int left;
    size_t length;
    struct connection *next, **hook; /* in the bucket of its millisecond */
    char data[BUFFER];
};

static int interval, events_a_stream;
static struct connection **buckets;
static int64_t tick;
static long streams, streams_with_ids;
static char plain_event[512], named_event[512], first_event[4096], usage_event[512], whole[2048];

static void make_event(char *into, const char *text) {
    char event[4096];
    int length = snprintf(event, sizeof event, "data: %s\n\n", text);
    sprintf(into, "%x\r\n%s\r\n", (unsigned)length, event);
}

static void make_answers(void) {
#define CHUNK "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\","
#define DELTA "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"logprobs\":null,\"finish_reason\":null"
    make_event(plain_event, CHUNK DELTA "}]}");
    make_event(named_event, CHUNK DELTA ",\"token_ids\":[1234]}]}");
    char ids[PROMPT_IDS * 5 + 1] = "", first[4096];
    for (int i = 0; i < PROMPT_IDS; i++) strcat(ids, i ? ",1234" : "1234");
    sprintf(first, CHUNK "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                         "\"logprobs\":null,\"finish_reason\":null}],\"prompt_token_ids\":[%s]}", ids);
    make_event(first_event, first);
    make_event(usage_event, CHUNK "\"choices\":[],\"usage\":{\"prompt_tokens\":250,\"completion_tokens\":100,"
                                  "\"total_tokens\":350}}");
    const char *answer =
        "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":"
        "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"An answer of a few words, as an engine "
        "gives it at once, since engines are not what is measured here.\"},\"logprobs\":null,\"finish_reason\":"
        "\"stop\"}],\"usage\":{\"prompt_tokens\":250,\"completion_tokens\":20,\"total_tokens\":270}}";
    sprintf(whole, HEAD "application/json\r\ncontent-length: %zu\r\n\r\n%s", strlen(answer), answer);
}

/* Writes all or gives up: what stands before a replica reads. False when nothing could be written yet. */
static bool put(struct connection *c, const char *data) {
    size_t length = strlen(data), done = 0;
    while (done < length) {
        ssize_t sent = send(c->fd, data + done, length - done, MSG_NOSIGNAL);
        if (sent > 0) done += (size_t)sent;
        else if (errno != EAGAIN) return true; /* gone: its end is read soon */
        else if (!done) return false;
        else usleep(50);
    }
    return true;
}

static void leave_bucket(struct connection *c) {
    if (!c->hook) return;
    *c->hook = c->next;
    if (c->next) c->next->hook = c->hook;
    c->hook = NULL;
}

static void begin_stream(struct connection *c) {
    streams++;
    streams_with_ids += c->names_tokens;
    put(c, HEAD "text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    if (c->names_tokens) put(c, first_event);
    c->streaming = true;
    c->left = events_a_stream;
    struct connection **bucket = &buckets[tick % interval];
    if ((c->next = *bucket)) c->next->hook = &c->next;
    *bucket = c;
    c->hook = bucket;
}

static void next_event(struct connection *c) {
    if (!put(c, c->names_tokens ? named_event : plain_event) || --c->left) return;
    if (c->tells_usage) put(c, usage_event);
    put(c, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    c->streaming = false;
    leave_bucket(c);
}

static bool says(const char *body, size_t length, const char *name) {
    const char *found = memmem(body, length, name, strlen(name));
    if (!found) return false;
    for (found += strlen(name); *found == ' ' || *found == ':'; found++) {}
    return !strncmp(found, "true", 4);
}

static void answer_get(struct connection *c) {
    char out[1024], body[512];
    int length = sprintf(
        body,
        "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"max_model_len\":32768}],\"model_path\":\"m\","
        "\"served_model_name\":\"m\",\"tokenizer_path\":\"m\",\"dp_size\":1,\"status\":\"ok\",\"streams\":%ld,"
        "\"streams_with_ids\":%ld}", streams, streams_with_ids);
    sprintf(out, HEAD "application/json\r\ncontent-length: %d\r\n\r\n%s", length, body);
    put(c, out);
}

/* Answers the first request in the buffer; false while it is not whole. */
static bool answer(struct connection *c) {
    size_t head = head_length(c->data, c->length), size = head;
    if (!head) return false;
    long body = body_length(c->data, head);
    if (body >= 0) size += (size_t)body;
    else {
        char *end = memmem(c->data + head, c->length - head, "\r\n0\r\n\r\n", 7);
        if (!end) return false;
        size = (size_t)(end - c->data) + 7;
    }
    if (c->length < size) return false;
    const char *text = c->data + head;
    if (c->data[0] == 'G') answer_get(c);
    else if (says(text, size - head, "\"stream\"")) {
        c->names_tokens = says(text, size - head, "\"return_token_ids\"");
        c->tells_usage = says(text, size - head, "\"include_usage\"");
        begin_stream(c);
    } else put(c, whole);
    memmove(c->data, c->data + size, c->length -= size);
    c->data[c->length] = 0;
    return true;
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->fd, c->data + c->length, BUFFER - 1 - c->length, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN) return;
        leave_bucket(c);
        close(c->fd);
        free(c);
        return;
    }
    c->length += (size_t)got;
    c->data[c->length] = 0;
    while (!c->streaming && answer(c)) {}
}

static void tick_on(int timer) {
    uint64_t passed;
    if (read(timer, &passed, sizeof passed) < 0) return;
    while (passed--) {
        tick++;
        for (struct connection *c = buckets[tick % interval], *next; c; c = next) {
            next = c->next;
            next_event(c);
        }
    }
}

static void add(int poll, int fd, void *what) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    int replicas = atoi(arguments[1]), poll = epoll_create1(0);
    interval = atoi(arguments[2]);
    events_a_stream = atoi(arguments[3]);
    int patience = atoi(arguments[4]) ? 0 : -1;
    buckets = calloc((size_t)interval, sizeof *buckets);
    make_answers();
    int *doors = calloc((size_t)replicas, sizeof *doors), timer = timerfd_create(CLOCK_MONOTONIC, 0), input = 0;
    for (int i = 0; i < replicas; i++) {
        struct sockaddr_in at = loopback(0);
        socklen_t size = sizeof at;
        doors[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (bind(doors[i], (struct sockaddr *)&at, size) || listen(doors[i], 4096)) die("listen");
        getsockname(doors[i], (struct sockaddr *)&at, &size);
        printf(i ? " %d" : "%d", ntohs(at.sin_port));
        add(poll, doors[i], &doors[i]);
    }
    puts("");
    fflush(stdout);
    struct itimerspec every = {{0, 1000000}, {0, 1000000}};
    timerfd_settime(timer, 0, &every, NULL);
    add(poll, timer, &timer);
    add(poll, 0, &input);
    struct epoll_event ready[EVENTS];
    for (;;) {
        int found = epoll_wait(poll, ready, EVENTS, patience);
        for (int i = 0; i < found; i++) {
            void *what = ready[i].data.ptr;
            if (what == &input) return 0;
            if (what == &timer) tick_on(timer);
            else if (what >= (void *)doors && what < (void *)(doors + replicas)) {
                int fd = accept4(*(int *)what, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                struct connection *c = calloc(1, sizeof *c);
                c->fd = fd;
                send_at_once(fd);
                add(poll, fd, c);
            } else receive(what);
        }
    }
}
