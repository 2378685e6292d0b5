/* The clients of fanout.py: thousands of connections, one epoll, next to no work.
 *
 * cc -O2 -o client _fanout_client.c;  ./client PORT
 *
 * It is told what to do line by line on stdin, and answers each with one line of JSON:
 *
 *   open N PATH     N more connections that ask for PATH ("-": that ask for nothing)
 *                   the answer counts those whose first read had an event behind the head
 *   stall N         the first N are not read any more
 *   expect E S      reads until each of the others has had E events more, for S seconds at most
 *
 * An event ends in 20 digits, the nanoseconds of CLOCK_MONOTONIC at which it was published, and
 * a tilde, which occurs nowhere else. Nothing but the tildes is looked for, so that a client
 * costs less than any server.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { STAMP = 20, WAVE = 100, READ = 1 << 16, MAX_SAMPLES = 1 << 22 };

struct client {
    int fd;
    char tail[STAMP]; /* the last bytes, in case a stamp comes in two pieces */
    int has_head;     /* the response has begun */
    long events;      /* since the last `expect` */
};

static struct client *clients;
static long count, stalled, wanted, short_of, answered, whole;
static int poller, port;
static char buffer[STAMP + READ];
static unsigned *samples; /* latencies, in units of 100 ns */
static long sampled, events;

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Read once from a client, and look at what came. */
static void take(struct client *c) {
    char *data = buffer + STAMP, *end, *mark;
    ssize_t size = recv(c->fd, data, READ, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        fprintf(stderr, "a connection was closed after %ld events\n", c->events);
        exit(1);
    }
    long long at = now();
    if (!c->has_head) {
        if (memcmp(data, "HTTP/1.1 200", 12)) {
            fprintf(stderr, "unexpected response: %.80s\n", data);
            exit(1);
        }
        c->has_head = 1;
        answered++;
        if (memchr(data, '~', size)) whole++;
    }
    memcpy(buffer, c->tail, STAMP);
    end = data + size;
    for (mark = data; (mark = memchr(mark, '~', end - mark)); mark++) {
        if (sampled < MAX_SAMPLES) {
            long long stamp = 0;
            for (char *digit = mark - STAMP; digit < mark; digit++)
                stamp = stamp * 10 + (*digit - '0');
            samples[sampled++] = (at - stamp) / 100;
        }
        events++;
        if (++c->events == wanted) short_of--;
    }
    memcpy(c->tail, end - STAMP, STAMP);
}

static void turn(int milliseconds) {
    static struct epoll_event ready[1024];
    int n = epoll_wait(poller, ready, 1024, milliseconds);
    for (int i = 0; i < n; i++) take(ready[i].data.ptr);
}

static void open_some(long n, const char *path) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct linger reset = {1, 0}; /* no TIME_WAIT: the ports are needed again */
    char request[256];
    int idle = !strcmp(path, "-");
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
                          path);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (long i = 0; i < n; i++) {
        struct client *c = &clients[count];
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        if (n <= 100) /* so few are quickly behind when a neighbour takes their core */
            setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &(int){4 << 20}, sizeof(int));
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
        count++;
        if (idle) {
            answered++;
            c->has_head = 1;
            if (i % WAVE == 0) usleep(20000); /* else the server's backlog overflows */
            continue;
        }
        if (send(c->fd, request, length, 0) != length) die("send");
        while (answered < count - WAVE) turn(1000);
    }
    while (answered < count) turn(1000);
    for (long long until = now() + 100000000; now() < until;) turn(10);
    printf("{\"clients\": %ld, \"whole\": %ld}\n", count, whole);
}

static void stall(long n) {
    for (long i = stalled; i < n; i++) epoll_ctl(poller, EPOLL_CTL_DEL, clients[i].fd, NULL);
    stalled = n;
    printf("{\"stalled\": %ld}\n", stalled);
}

static int by_size(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

/* The quantile of each window of so many samples, and of these the median: a neighbour on the
 * machine easily spoils a second. */
static double quantile(double q, long window) {
    static unsigned found[MAX_SAMPLES / 1000 + 1];
    long n = 0;
    for (long from = 0; from + window <= sampled && n <= MAX_SAMPLES / 1000; from += window) {
        qsort(samples + from, window, sizeof *samples, by_size);
        found[n++] = samples[from + (long)(q * (window - 1))];
    }
    qsort(found, n, sizeof *found, by_size);
    return n ? found[n / 2] / 1e7 : 0;
}

static void expect(long number, double seconds) {
    wanted = number;
    short_of = count - stalled;
    sampled = events = 0;
    for (long i = 0; i < count; i++) clients[i].events = 0;
    printf("{}\n"); /* ready: now publish */
    fflush(stdout);
    long long start = now(), until = start + (long long)(seconds * 1e9);
    while (short_of && now() < until) turn(100);
    double wall = (now() - start) / 1e9;
    long window = (count - stalled) * 10; /* ten events: a second, where they are paced */
    if (window < 1000) window = 1000;
    double p50 = quantile(0.5, window), p99 = quantile(0.99, window);
    printf("{\"events\": %ld, \"short\": %ld, \"wall\": %.6f, \"p50\": %.7f, \"p99\": %.7f}\n",
           events, short_of, wall, p50, p99);
}

int main(int argc, char **argv) {
    char line[512], path[256];
    long n;
    double seconds;
    if (argc != 2) return 2;
    port = atoi(argv[1]);
    poller = epoll_create1(0);
    clients = calloc(20000, sizeof *clients);
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    memset(samples, 1, MAX_SAMPLES * sizeof *samples); /* no page faults later */
    setvbuf(stdin, NULL, _IONBF, 0); /* poll() must see what was not read yet */
    for (;;) {
        struct pollfd waiting[2] = {{0, POLLIN, 0}, {poller, POLLIN, 0}};
        poll(waiting, 2, -1);
        if (waiting[1].revents) turn(0);
        if (!waiting[0].revents) continue;
        if (!fgets(line, sizeof line, stdin)) return 0;
        if (sscanf(line, "open %ld %255s", &n, path) == 2) open_some(n, path);
        else if (sscanf(line, "stall %ld", &n) == 1) stall(n);
        else if (sscanf(line, "expect %ld %lf", &n, &seconds) == 2) expect(n, seconds);
        else return 2;
        fflush(stdout);
    }
}
