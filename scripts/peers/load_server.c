/* A small HTTP/1.1 server for measuring generators: one thread, epoll, keep-alive, one write an answer.
 * build: -O2 -Wall
 *
 *   load_server PORT      0 for a free one; prints {"pid":..,"port":..} when it listens, ends when its input closes
 *
 * Answers every request with 200 and a small JSON body. A request is over at its empty line plus Content-Length.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const char ANSWER[] = "HTTP/1.1 200 OK\r\nServer: small\r\nContent-Type: application/json\r\nContent-Length: 41\r\n\r\n"
                             "{\"ok\":true,\"mood\":\"glad\",\"npc\":\"Arthur\"}\n";

/* How many whole requests are in buf[0..n]; *used is where the rest begins. */
static int whole(const char *buf, int n, int *used) {
    int count = 0;
    *used = 0;
    for (;;) {
        const char *at = buf + *used, *end = memmem(at, n - *used, "\r\n\r\n", 4);
        if (!end) return count;
        int head = (int)(end - at) + 4, body = 0;
        for (const char *line = at; line < end; line++) {
            if (*line == '\n' && end - line > 16 && !strncasecmp(line + 1, "content-length:", 15)) body = atoi(line + 16);
        }
        if (n - *used < head + body) return count;
        *used += head + body;
        count++;
    }
}

struct rest { int n; char buf[4096]; };
static struct rest *rests[1 << 20];

int main(int argc, char **argv) {
    struct rlimit fds = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_NOFILE, &fds);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                               .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    socklen_t len = sizeof addr;
    if (bind(listener, (void *)&addr, sizeof addr) || listen(listener, 4096)) return perror("listen"), 1;
    getsockname(listener, (void *)&addr, &len);
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener}, evs[256];
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev);
    ev.data.fd = 0;
    epoll_ctl(ep, EPOLL_CTL_ADD, 0, &ev);
    printf("{\"pid\":%d,\"port\":%d}\n", getpid(), ntohs(addr.sin_port));
    fflush(stdout);
    static char buf[65536], out[65536];
    for (;;) {
        int n = epoll_wait(ep, evs, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = evs[i].data.fd;
            if (fd == 0) return 0;
            if (fd == listener) {
                int c;
                while ((c = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                    ev.data.fd = c;
                    epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev);
                }
                continue;
            }
            int kept = rests[fd] ? rests[fd]->n : 0, used;
            if (kept) memcpy(buf, rests[fd]->buf, kept);
            int got = read(fd, buf + kept, sizeof buf - kept);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) {
                free(rests[fd]);
                rests[fd] = NULL;
                close(fd);
                continue;
            }
            int count = whole(buf, kept + got, &used), left = kept + got - used;
            if (left > 0 && left <= 4096) {
                if (!rests[fd]) rests[fd] = malloc(sizeof **rests);
                memcpy(rests[fd]->buf, buf + used, left);
                rests[fd]->n = left;
            } else if (rests[fd]) {
                rests[fd]->n = 0;
            }
            int size = 0;
            for (int k = 0; k < count && size + sizeof ANSWER < sizeof out; k++, size += sizeof ANSWER - 1)
                memcpy(out + size, ANSWER, sizeof ANSWER - 1);
            if (size && write(fd, out, size) != size) close(fd);
        }
    }
}
