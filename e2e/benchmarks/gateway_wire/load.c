/* A client that is no bottleneck: many connections, each asking again as soon as it is answered or at a steady rate.

       load PORT CONNECTIONS SECONDS GRACE_SECONDS RATE SPREAD_MILLISECONDS REQUEST_BYTES AWAKE < REQUESTS

   Standard input holds requests of that many bytes each, asked in turn. RATE is in requests a second, 0 for as fast as
   they are answered; at a rate, a request's time runs from when it was due, not from when a connection was free. What
   is under way when the time is over gets the grace to end. Connections begin spread over so many milliseconds. AWAKE is
   1 if it is to spin where it would sleep: see wire.h. Prints one JSON object; times in it are microseconds. */
#include "wire.h"
#include <stdbool.h>
#include <sys/prctl.h>

struct times {
    uint32_t *all;
    size_t count, room;
};

struct connection {
    int fd;
    bool busy, in_body;
    long left;      /* of a body of known length; -1 for one in chunks */
    int64_t due;    /* when its request was to be sent; before the first one, when it begins */
    char tail[5];   /* of a body in chunks: the end is "0\r\n\r\n" */
    int matched;    /* bytes of "data: " seen last */
    size_t length;  /* of a head that is not whole */
    char head[8192];
};

static int port, poll_fd;
static bool awake;
static char *requests;
static size_t request_bytes, request_count, asked;
static struct times whole, first;
static long answered, failed, events;
static char buffer[BUFFER];

static void note(struct times *times, int64_t ns) {
    if (times->count == times->room)
        times->all = realloc(times->all, (times->room = times->room ? times->room * 2 : 65536) * sizeof *times->all);
    times->all[times->count++] = (uint32_t)(ns / 1000);
}

static void dial(struct connection *c) {
    struct sockaddr_in at = loopback(port);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&at, sizeof at)) die("connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    send_at_once(c->fd);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
}

static void ask(struct connection *c, int64_t due) {
    c->busy = true;
    c->in_body = false;
    c->length = 0;
    c->due = due;
    const char *request = requests + asked++ % request_count * request_bytes;
    if (send(c->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes) failed++;
}

static void end(struct connection *c, bool well) {
    if (well) {
        answered++;
        note(&whole, now_ns() - c->due);
    } else failed++;
    c->busy = false;
}

static void count_events(struct connection *c, const char *data, size_t length) {
    static const char mark[] = "data: ";
    for (size_t i = 0; i < length; i++) {
        c->matched = data[i] == mark[c->matched] ? c->matched + 1 : data[i] == 'd';
        if (!mark[c->matched]) {
            events++;
            c->matched = 0;
        }
    }
}

static void take_body(struct connection *c, const char *data, size_t length) {
    if (!length) return;
    if (c->left >= 0) {
        if (!(c->left -= (long)length)) end(c, true);
        return;
    }
    count_events(c, data, length);
    if (length >= 5) memcpy(c->tail, data + length - 5, 5);
    else {
        memmove(c->tail, c->tail + length, 5 - length);
        memcpy(c->tail + 5 - length, data, length);
    }
    if (!memcmp(c->tail, "0\r\n\r\n", 5)) end(c, true);
}

static void take(struct connection *c, const char *data, size_t length) {
    if (c->in_body) {
        take_body(c, data, length);
        return;
    }
    size_t room = sizeof c->head - c->length, more = length < room ? length : room;
    memcpy(c->head + c->length, data, more);
    size_t before = c->length, head = head_length(c->head, c->length += more);
    if (!head) return;
    if (c->length < 12 || memcmp(c->head + 8, " 200", 4)) {
        fprintf(stderr, "%.*s\n", (int)(c->length < 1000 ? c->length : 1000), c->head);
        exit(1); /* a benchmark of refusals says nothing */
    }
    c->in_body = true;
    c->left = body_length(c->head, head);
    memset(c->tail, 0, sizeof c->tail);
    note(&first, now_ns() - c->due);
    size_t used = head - before;
    take_body(c, data + used, length - used);
}

/* Returns whether the connection is free for another request. */
static bool receive(struct connection *c) {
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN) return false;
    if (got <= 0) {
        close(c->fd);
        if (c->busy) end(c, false);
        dial(c);
        return true;
    }
    take(c, buffer, (size_t)got);
    return !c->busy;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, struct times *times) {
    qsort(times->all, times->count, sizeof *times->all, by_size);
#define AT(part) (times->count ? times->all[(size_t)((double)(times->count - 1) * (part))] : 0)
    printf(",\"%s\":{\"p50\":%u,\"p90\":%u,\"p99\":%u,\"most\":%u}", name, AT(0.5), AT(0.9), AT(0.99), AT(1));
}

static void wait_until(struct epoll_event *ready, int *found, int64_t at) {
    int64_t left = awake ? 0 : at - now_ns();
    struct timespec time = {left > 0 ? left / 1000000000 : 0, left > 0 ? left % 1000000000 : 0};
    *found = epoll_pwait2(poll_fd, ready, EVENTS, &time, NULL);
}

/* Sends what is due, to connections that are free; returns when the next one is. */
static int64_t send_due(struct connection **free_ones, size_t *count, int64_t next, double gap, int64_t until) {
    for (; *count && next < until && next <= now_ns(); next += (int64_t)gap) ask(free_ones[--*count], next);
    return next;
}

static void run(struct connection *all, size_t count, double seconds, double grace, double rate, int64_t spread) {
    struct connection **free_ones = calloc(count, sizeof *free_ones);
    struct epoll_event ready[EVENTS];
    size_t idle = 0, begun = 0;
    if (rate > 0) usleep(200 * 1000); /* who is still taking the connections is not late with an answer */
    int64_t start = now_ns(), until = start + (int64_t)(seconds * 1e9), next = start;
    int64_t last = until + (int64_t)(grace * 1e9);
    double gap = rate > 0 ? 1e9 / rate : (double)spread / (double)count;
    if (rate > 0)
        for (; begun < count; begun++) free_ones[idle++] = &all[begun];
    while (now_ns() < last) {
        int found;
        if (rate > 0) next = send_due(free_ones, &idle, next, gap, until);
        else
            for (; begun < count && next <= now_ns(); next += (int64_t)gap) ask(&all[begun++], now_ns());
        bool over = now_ns() >= until;
        size_t busy = 0;
        for (size_t i = 0; over && i < count; i++) busy += all[i].busy;
        if (over && !busy) break;
        int64_t wake = over || (rate > 0 && !idle) || (rate <= 0 && begun == count) ? last : next;
        wait_until(ready, &found, over || wake < until ? wake : until);
        for (int i = 0; i < found; i++) {
            struct connection *c = ready[i].data.ptr;
            if (!receive(c)) continue;
            if (rate > 0) free_ones[idle++] = c;
            else if (now_ns() < until) ask(c, now_ns());
        }
    }
    printf("{\"seconds\":%.6f,\"answered\":%ld,\"failed\":%ld,\"events\":%ld", (double)(now_ns() - start) / 1e9,
           answered, failed, events);
    print_times("whole", &whole);
    print_times("first", &first);
    puts("}");
}

int main(int count, char **arguments) {
    if (count != 9) return 2;
    prctl(PR_SET_TIMERSLACK, 1);
    port = atoi(arguments[1]);
    size_t connections = strtoul(arguments[2], NULL, 10);
    request_bytes = strtoul(arguments[7], NULL, 10);
    awake = atoi(arguments[8]);
    size_t size = fread(requests = malloc(BUFFER * 16), 1, BUFFER * 16, stdin);
    request_count = size / request_bytes;
    if (!request_count || size % request_bytes) return 2;
    poll_fd = epoll_create1(0);
    struct connection *all = calloc(connections, sizeof *all);
    for (size_t i = 0; i < connections; i++) dial(&all[i]);
    run(all, connections, atof(arguments[3]), atof(arguments[4]), atof(arguments[5]),
        (int64_t)(atof(arguments[6]) * 1e6));
    return 0;
}
