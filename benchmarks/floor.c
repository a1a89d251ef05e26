/* The floor of the benchmarks: the least that a server can do, in C.
 *
 * One thread, epoll, one write for each member of a room, and nothing else: no limits, no checks, no timeouts, and of
 * JSON only what the load client writes. It prints {"port": N} when it listens, and ends on SIGTERM. What a library
 * costs more than this is what it does more than this.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOMS = 1000000, MAX = 1 << 20 };
struct conn { int fd, room, place; bool open; char *in, *out; size_t in_len, out_len; };
static struct { struct conn **member; int n; } rooms[ROOMS]; /* of roomN at N */
static int ep, top;
static char buffer[2 * MAX], frame[MAX];

static void accept_key(const char *key, char *out) { /* base64(sha1(key + GUID)), RFC 6455 section 4.2.2 */
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    unsigned char block[128] = {0}, sum[21] = {0};
    memcpy(block, key, 24);
    memcpy(block + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    block[60] = 0x80;
    block[126] = 60 * 8 >> 8;
    block[127] = 60 * 8 & 255;
    for (int half = 0; half < 2; half++) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            const unsigned char *p = block + half * 64 + i * 4;
            uint32_t x = i < 16 ? 0 : w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
            w[i] = i < 16 ? (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3] : x << 1 | x >> 31;
            uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
            uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
            uint32_t t = (a << 5 | a >> 27) + f + e + k + w[i];
            e = d; d = c; c = b << 30 | b >> 2; b = a; a = t;
        }
        h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
    }
    for (int i = 0; i < 20; i++) sum[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 28; i++) out[i] = digit[(sum[i * 6 / 8] << 8 | sum[i * 6 / 8 + 1]) >> (10 - i * 6 % 8) & 63];
    strcpy(out + 27, "=");
}

static void put(struct conn *c, const char *p, size_t n) {
    if (!c->out_len) {
        ssize_t taken = send(c->fd, p, n, MSG_NOSIGNAL);
        if (taken < 0 && errno != EAGAIN) return; /* the next read says so, too */
        if (taken > 0) { p += taken; n -= (size_t)taken; }
        if (!n) return;
    }
    c->out = realloc(c->out, c->out_len + n);
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){.events = EPOLLIN | EPOLLOUT, .data.ptr = c});
}

static void flush(struct conn *c) {
    ssize_t taken = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (taken <= 0) return;
    memmove(c->out, c->out + taken, c->out_len -= (size_t)taken);
    if (!c->out_len) epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
}

static size_t make_frame(int opcode, const char *before, const char *p, size_t n, const char *behind) {
    size_t front = strlen(before), back = strlen(behind), len = front + n + back, h = 2;
    frame[0] = (char)(0x80 | opcode);
    if (len < 126) frame[1] = (char)len;
    else { h = 4; frame[1] = 126; frame[2] = (char)(len >> 8); frame[3] = (char)len; } /* of 64 KiB at most */
    memcpy(frame + h, before, front);
    memcpy(frame + h + front, p, n);
    memcpy(frame + h + front + n, behind, back);
    return h + len;
}

static void leave(struct conn *c) {
    if (c->room >= 0) {
        struct conn *other = rooms[c->room].member[--rooms[c->room].n];
        rooms[c->room].member[other->place = c->place] = other;
    }
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void on_message(struct conn *c, char *p, size_t n) {
    char *at = memmem(p, n, "room_id\":\"room", 14), *payload = memmem(p, n, "payload\":\"", 10);
    int room = at ? atoi(at + 14) % ROOMS : -1;
    p[n] = 0; /* the next frame's first byte is kept by the caller */
    if (!strncmp(p, "{\"action\":\"subscribe\"", 21) && room >= 0 && c->room < 0) {
        c->room = room;
        top = room >= top ? room + 1 : top;
        rooms[room].member = realloc(rooms[room].member, sizeof c * (size_t)(rooms[room].n + 1));
        rooms[room].member[c->place = rooms[room].n++] = c;
        put(c, frame, make_frame(1, "{\"id\":1,\"data\":null}", "", 0, ""));
    } else if (payload) { /* publish; sweep, which names no room: to all of them */
        payload += 10;
        size_t len = make_frame(1, "{\"payload\":\"", payload, strcspn(payload, "\""), "\"}");
        for (int r = room < 0 ? 0 : room; r < (room < 0 ? top : room + 1); r++)
            for (int i = 0; i < rooms[r].n; i++) put(rooms[r].member[i], frame, len);
    } else if (!strncmp(p, "{\"action\":\"echo\",\"data\":\"", 25)) {
        char head[40], *end = strchr(p + 25, '"');
        sprintf(head, "{\"id\":%.10s,\"data\":\"", end + 7);
        put(c, frame, make_frame(1, head, p + 25, (size_t)(end - p - 25), "\"}"));
    }
}

/* False when the connection is over. */
static bool receive(struct conn *c) {
    memcpy(buffer, c->in, c->in_len);
    ssize_t got = recv(c->fd, buffer + c->in_len, MAX - c->in_len, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    size_t n = c->in_len + (size_t)got, used = 0;
    if (!c->open) {
        char *key = memmem(buffer, n, "Sec-WebSocket-Key: ", 19), *end = memmem(buffer, n, "\r\n\r\n", 4), answer[200], accept[32];
        if (key && end) {
            accept_key(key + 19, accept);
            put(c, answer, (size_t)sprintf(answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                                   "Sec-WebSocket-Accept: %s\r\n\r\n", accept));
            c->open = true;
            used = (size_t)(end + 4 - buffer);
        }
    }
    while (c->open && n - used >= 6) {
        unsigned char *f = (unsigned char *)buffer + used;
        size_t len = f[1] & 127, h = len == 126 ? 8 : 6;
        if (len == 126) len = (size_t)f[2] << 8 | f[3];
        if (n - used < h + len) break;
        char *body = (char *)f + h, first = body[len];
        for (size_t i = 0; i < len; i++) body[i] = (char)(body[i] ^ f[h - 4 + (i & 3)]);
        if ((f[0] & 15) == 8) { put(c, frame, make_frame(8, "", body, len, "")); return false; }
        if ((f[0] & 15) == 1) on_message(c, body, len);
        body[len] = first;
        used += h + len;
    }
    c->in = realloc(c->in, n - used + 1);
    memcpy(c->in, buffer + used, c->in_len = n - used);
    return true;
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit files;
    socklen_t size = sizeof address;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 65535)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    ep = epoll_create1(0);
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    for (struct epoll_event events[256];;) {
        int n = epoll_wait(ep, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            for (int fd; !c && (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                struct conn *new = calloc(1, sizeof *new);
                *new = (struct conn){.fd = fd, .room = -1};
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                epoll_ctl(ep, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = new});
            }
            if (c && events[i].events & EPOLLOUT) flush(c);
            if (c && events[i].events & ~(uint32_t)EPOLLOUT && !receive(c)) leave(c);
        }
    }
}
