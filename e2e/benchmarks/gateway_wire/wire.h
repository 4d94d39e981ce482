/* What both ends of the benchmark's wire need: a socket on loopback, and where an HTTP message ends.

   Whoever writes to a process that sleeps pays for waking its core, on a virtual machine several microseconds. In front
   of a network there is nobody to be woken; on one machine, a proxy so fast that its ends are never idle does not pay,
   and every other one does. So where each end has a core for itself, both stay awake. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 256 * 1024, EVENTS = 512 };

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static inline struct sockaddr_in loopback(int port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static inline void send_at_once(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* The length of a message's head with its empty line; 0 while that is not there. */
static inline size_t head_length(const char *data, size_t length) {
    const char *end = memmem(data, length, "\r\n\r\n", 4);
    return end ? (size_t)(end - data) + 4 : 0;
}

/* What follows a header's name, colon included, within a head; NULL where it is absent. */
static inline const char *header(const char *head, size_t length, const char *name) {
    size_t size = strlen(name);
    for (const char *line = head; (line = memchr(line, '\n', length - (size_t)(line - head)));) {
        line++;
        if (length - (size_t)(line - head) < size) return NULL;
        if (!strncasecmp(line, name, size)) return line + size;
    }
    return NULL;
}

/* The bytes of a body, or -1 when it comes in chunks. */
static inline long body_length(const char *head, size_t length) {
    const char *found = header(head, length, "content-length:");
    if (found) return strtol(found, NULL, 10);
    return header(head, length, "transfer-encoding:") ? -1 : 0;
}
