/* The load client of the benchmarks: one thread, epoll, and every delivery checked.
 *
 *   load --port P --pid SERVER [options] STEP...      STEP is kind:key=value,key=value
 *
 * The steps run in order on the same connections, and each prints one line of JSON. `connect` opens a group of
 * connections and puts them into rooms; `traffic` publishes to the rooms of one group, sends requests on the
 * connections of another, or both at once; `idle`, `close`, `storm` and `ask` are what they say. See `steps` below.
 *
 * Traffic. A closed loop keeps `window` publications of each room (or requests of each connection) in flight; a
 * publication is complete when every member has it. An open loop sends at a fixed rate whatever comes back, and its
 * latency counts from when a message was due, so that a server that stalls is charged for all that waited.
 *
 * Checks. A payload is "@", F or E (published, or a request), a serial number (9 digits), a room or connection
 * (6 digits) and a filler up to its size. Serial numbers count on through all steps. Each member must see each
 * publication of its room exactly once, in order and whole; what is lost, doubled, reordered, corrupt, or not for
 * this connection ("stray") is counted and told, and `ok` is false. A step that hears nothing for `--stall` seconds
 * ends with what is missing counted as lost. Messages of one kind are alike, byte by byte, but for these numbers; with
 * --offset (a text, such as "offset":) each publication has behind that text a number of as many digits as it takes,
 * which must be one more than its serial number.
 *
 * Costs. The server's CPU is the first field of /proc/PID/task/T/schedstat, in ns, over all its threads. On the
 * loopback interface that contains the kernel's work of bringing a packet to the receiver. `load_busy` is the part of
 * the time for which this client had work: below 1 it was not what limited the server.
 *
 * Exit status: 0; 1 when a check failed; 2 when a step could not be done, with the reason on standard error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_SIZE = 1 << 20, HEAD = 17, OPEN_RING = 4096, MAX_CONNS = 100000, MAX_ROOMS = 100000 };
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ=="; /* RFC 6455, section 1.3, as is the answer */
static const char ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

struct room {
    uint32_t published, completed, members;
    int publisher;   /* the member that publishes */
    uint32_t ring;   /* size of the two below, a power of two: what may be in flight */
    uint32_t *left;  /* members that do not have publication n yet, at n % ring */
    uint64_t *since; /* when it was due */
};

struct conn {
    int fd, group, room; /* room: -1 for none */
    enum { OFF, CONNECTING, UPGRADING, GREETING, JOINING, READY } state;
    bool pollout, closing, closed_by_peer;
    int replies;
    uint32_t next;  /* the publication that comes next */
    uint64_t seen;  /* bit k: publication next - 1 - k has come */
    uint32_t asked, answered, ring;
    uint64_t *since, began;
    char *in, *out, *parts; /* an incomplete frame; what the socket did not take; fragments of a message */
    size_t in_len, in_cap, out_len, out_cap, parts_len;
};

/* A message whose changing digits are filled in place. */
struct template { char *text; size_t len, payload, room, id; };
enum { NOWHERE = ~(size_t)0 >> 1 };

static struct { int port, pid; double stall; const char *path, *protocol, *hello, *ping, *ignore, *offset; int hello_replies, sub_replies;
                const char *subscribe, *publish, *echo; } opt = {
    .stall = 15, .path = "/ws", .sub_replies = 1,
    .subscribe = "{\"action\":\"subscribe\",\"data\":{\"room_id\":\"%R\"},\"id\":1}",
    .publish = "{\"action\":\"publish\",\"data\":{\"room_id\":\"%R\",\"payload\":\"%P\"}}",
    .echo = "{\"action\":\"echo\",\"data\":\"%P\",\"id\":%N}",
};

enum { EDGE = EPOLLIN | EPOLLRDHUP | EPOLLET }; /* see handle */
static struct conn *conns;
static struct room *rooms;
static int nconns, nrooms, ngroups, ready, off, ep, ep_first;
static char *rbuf, *filler;
static uint64_t bytes_in, retries;

/* What the running step expects. */
static struct traffic {
    struct template publish, echo;
    size_t size, echo_size, at[2], len[2], id_at, offset_at;
    int fan, ask; /* groups; -1 for none */
    uint32_t window, ask_window;
    bool counting, stopping, sweep;
    uint64_t limit, published, deliveries, replies, in_flight;
} now;
static struct { uint64_t lost, doubled, reordered, corrupt, stray; } wrong;
static bool tearing_down, storming;
static char *asked_reply;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(2);
}

static void *grow(void *p, size_t n) {
    if (!(p = realloc(p, n ? n : 1))) die("out of memory");
    return p;
}

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* ---- histograms: 64 bins to a power of two, so a quantile is exact to 1.6 % ---- */
enum { BINS = 64 * 40 };
struct histogram { uint64_t n, max, bin[BINS]; };
static struct histogram each, last, answers, connects, lateness;

static void add(struct histogram *h, uint64_t ns) {
    int shift = ns < 128 ? 0 : 57 - __builtin_clzll(ns);
    int i = shift * 64 + (int)(ns >> shift);
    h->bin[i < BINS ? i : BINS - 1]++;
    h->n++;
    if (ns > h->max) h->max = ns;
}

static double quantile_us(const struct histogram *h, double q) {
    uint64_t want = (uint64_t)(q * (double)h->n + 0.999999), seen = 0;
    for (int i = 0; i < BINS && h->n; i++)
        if ((seen += h->bin[i]) >= want) {
            int shift = i < 128 ? 0 : i / 64 - 1;
            double ns = ((double)(i - shift * 64) + 0.5) * (double)(1ull << shift);
            return (ns < (double)h->max ? ns : (double)h->max) / 1e3;
        }
    return 0;
}

static void print_quantiles(const char *prefix, const struct histogram *h) {
    if (h->n)
        printf(",\"%sp50_us\":%.1f,\"%sp99_us\":%.1f,\"%sp999_us\":%.1f,\"%smax_us\":%.1f", prefix, quantile_us(h, .5),
               prefix, quantile_us(h, .99), prefix, quantile_us(h, .999), prefix, (double)h->max / 1e3);
}

/* ---- what the server uses ---- */
static double server_cpu(void) {
    char name[300], line[128];
    double ns = 0;
    snprintf(name, sizeof name, "/proc/%d/task", opt.pid);
    DIR *tasks = opendir(name);
    if (!tasks) die("the server has ended");
    for (struct dirent *task; (task = readdir(tasks));) {
        if (task->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "/proc/%d/task/%s/schedstat", opt.pid, task->d_name);
        FILE *file = fopen(name, "r");
        if (!file) continue; /* a thread that has just ended */
        if (fgets(line, sizeof line, file)) ns += strtod(line, NULL);
        fclose(file);
    }
    closedir(tasks);
    return ns / 1e9;
}

static long server_kib(void) {
    char name[64], line[256];
    long kib = 0;
    snprintf(name, sizeof name, "/proc/%d/status", opt.pid);
    FILE *file = fopen(name, "r");
    if (!file) die("the server has ended");
    while (fgets(line, sizeof line, file)) sscanf(line, "VmRSS: %ld", &kib);
    fclose(file);
    return kib;
}

static double own_cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- sending ---- */
static void watch(struct conn *c, bool writable) {
    if (c->pollout == writable) return;
    struct epoll_event event = {.events = EDGE | (writable ? EPOLLOUT : 0), .data.ptr = c};
    c->pollout = writable;
    epoll_ctl(c->group == now.ask && ep_first >= 0 ? ep_first : ep, EPOLL_CTL_MOD, c->fd, &event);
}

static void ended(struct conn *c, const char *why);

static void put(struct conn *c, const char *p, size_t n) {
    if (!c->out_len) {
        ssize_t taken = send(c->fd, p, n, MSG_NOSIGNAL);
        if (taken < 0 && errno != EAGAIN) { ended(c, strerror(errno)); return; }
        if (taken > 0) { p += taken; n -= (size_t)taken; }
        if (!n) return;
    }
    if (c->out_len + n > c->out_cap) c->out = grow(c->out, c->out_cap = 2 * (c->out_len + n));
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
    watch(c, true);
}

static void flush(struct conn *c) {
    ssize_t taken = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (taken < 0) { if (errno != EAGAIN) ended(c, strerror(errno)); return; }
    memmove(c->out, c->out + taken, c->out_len - (size_t)taken);
    if (!(c->out_len -= (size_t)taken)) watch(c, false);
}

static void send_frame(struct conn *c, int opcode, const char *body, size_t n) {
    static char *frame;
    static size_t capacity;
    static uint32_t mask = 0x9e3779b9;
    if (n + 32 > capacity) frame = grow(frame, capacity = 2 * (n + 32));
    mask ^= mask << 13; mask ^= mask >> 17; mask ^= mask << 5;
    size_t h = 2;
    frame[0] = (char)(0x80 | opcode);
    if (n < 126) frame[1] = (char)(0x80 | n);
    else if (n < 65536) { frame[1] = (char)(0x80 | 126); frame[2] = (char)(n >> 8); frame[3] = (char)n; h = 4; }
    else {
        frame[1] = (char)(0x80 | 127);
        for (int i = 0; i < 8; i++) frame[2 + i] = (char)((uint64_t)n >> (56 - 8 * i));
        h = 10;
    }
    memcpy(frame + h, &mask, 4);
    uint64_t wide = mask | (uint64_t)mask << 32, eight;
    char *out = frame + h + 4;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&eight, body + i, 8);
        eight ^= wide;
        memcpy(out + i, &eight, 8);
    }
    for (; i < n; i++) out[i] = (char)(body[i] ^ frame[h + (i & 3)]);
    put(c, frame, h + 4 + n);
}

/* ---- templates: %R a room's name, %P the payload, %N a request's id ---- */
static struct template make_template(const char *format, size_t size) {
    struct template t = {grow(NULL, strlen(format) * 12 + size), 0, NOWHERE, NOWHERE, NOWHERE};
    for (const char *p = format; *p; p++) {
        if (*p != '%') { t.text[t.len++] = *p; continue; }
        switch (*++p) {
        case 'R': memcpy(t.text + t.len, "room", 4); t.room = t.len + 4; t.len += 10; break;
        case 'N': t.text[t.len] = '1'; t.id = t.len + 1; t.len += 10; break;
        case 'P': t.payload = t.len; memcpy(t.text + t.len + HEAD, filler, size - HEAD); t.len += size; break;
        default: die("a template has %%R, %%P and %%N: %s", format);
        }
    }
    return t;
}

static void digits(char *at, uint32_t value, int width) {
    for (int i = width - 1; i >= 0; i--, value /= 10) at[i] = (char)('0' + value % 10);
}

static bool number(const char *at, int width, uint32_t *value) {
    *value = 0;
    for (int i = 0; i < width; i++) {
        if (at[i] < '0' || at[i] > '9') return false;
        *value = *value * 10 + (uint32_t)(at[i] - '0');
    }
    return true;
}

static void send_template(struct conn *c, struct template *t, char kind, uint32_t serial, uint32_t where) {
    if (t->payload != NOWHERE) {
        char *p = t->text + t->payload;
        p[0] = '@';
        p[1] = kind;
        digits(p + 2, serial, 9);
        digits(p + 11, where, 6);
    }
    if (t->room != NOWHERE) digits(t->text + t->room, where, 6);
    if (t->id != NOWHERE) digits(t->text + t->id, serial, 9);
    send_frame(c, 1, t->text, t->len);
}

static bool over(void) { return now.stopping || (now.limit && now.published >= now.limit); }

static void publish(int r, uint64_t due) {
    struct room *room = &rooms[r];
    room->since[room->published % room->ring] = due;
    room->left[room->published % room->ring] = room->members;
    now.in_flight++;
    now.published++;
    send_template(&conns[room->publisher], &now.publish, 'F', room->published++, (uint32_t)r);
}

/* One message that has the server publish once to every room. */
static void sweep(uint64_t due) {
    int sender = -1;
    uint32_t serial = 0;
    for (int r = 0; r < nrooms; r++) {
        struct room *room = &rooms[r];
        if (!room->members) continue;
        if (sender >= 0 && room->published != serial) die("a sweep needs rooms that have the same serial number");
        sender = sender < 0 ? room->publisher : sender;
        serial = room->published;
        room->since[serial % room->ring] = due;
        room->left[serial % room->ring] = room->members;
        room->published++;
        now.in_flight++;
    }
    now.published++;
    if (sender >= 0) send_template(&conns[sender], &now.publish, 'F', serial, 0);
}

static void ask(struct conn *c, uint64_t due) {
    c->since[c->asked % c->ring] = due;
    now.in_flight++;
    now.published += now.fan < 0;
    send_template(c, &now.echo, 'E', c->asked++, (uint32_t)(c - conns));
}

/* ---- receiving and checking ---- */
static void arrived(struct room *room, uint32_t serial, uint64_t t) {
    uint32_t i = serial % room->ring;
    if (now.counting) { now.deliveries++; add(&each, t - room->since[i]); }
    if (--room->left[i]) return;
    if (now.counting) add(&last, t - room->since[i]);
    room->completed++;
    now.in_flight--;
    if (!now.window || over()) return;
    if (!now.sweep) publish((int)(room - rooms), clock_ns());
    else if (!now.in_flight) sweep(clock_ns());
}

static void on_publication(struct conn *c, uint32_t serial, uint32_t where, uint64_t t) {
    struct room *room = c->room < 0 ? NULL : &rooms[c->room];
    if (!room || (!now.sweep && where != (uint32_t)c->room) || serial >= room->published) { wrong.stray++; return; }
    if (serial < c->next) {
        uint32_t back = c->next - 1 - serial;
        if (back < 64 && !(c->seen >> back & 1)) { c->seen |= 1ull << back; wrong.lost--; wrong.reordered++; }
        else wrong.doubled++;
        return;
    }
    uint32_t skipped = serial - c->next;
    wrong.lost += skipped;
    c->seen = skipped >= 63 ? 1 : c->seen << (skipped + 1) | 1;
    for (uint32_t missing = c->next; missing < serial; missing++) { arrived(room, missing, t); now.deliveries -= now.counting; }
    c->next = serial + 1;
    arrived(room, serial, t);
}

static void on_answer(struct conn *c, uint32_t serial, uint32_t where, uint64_t t) {
    if (where != (uint32_t)(c - conns) || serial >= c->asked) { wrong.stray++; return; }
    if (serial < c->answered) { wrong.doubled++; return; }
    if (serial > c->answered) { wrong.lost += serial - c->answered; now.in_flight -= serial - c->answered; }
    c->answered = serial + 1;
    now.in_flight--;
    if (now.counting) { now.replies++; add(&answers, t - c->since[serial % c->ring]); }
    if (now.ask_window && !over()) ask(c, clock_ns());
}

static bool has_id(const char *p, size_t n, size_t at, uint32_t serial) {
    char id[10] = "1";
    digits(id + 1, serial, 9);
    if (now.id_at == NOWHERE) { /* outside the payload, and in the same place in each answer */
        const char *found = memmem(p, at, id, 10);
        size_t behind = at + now.echo_size;
        if (!found && behind < n) found = memmem(p + behind, n - behind, id, 10);
        if (!found) return false;
        now.id_at = (size_t)(found - p);
    }
    return now.id_at + 10 <= n && !memcmp(p + now.id_at, id, 10);
}

/* How many digits the number of a publication has; 0 for a message without one. */
static size_t read_offset(const char *p, size_t n, uint64_t *offset) {
    size_t marker = strlen(opt.offset);
    if (now.offset_at == NOWHERE) {
        const char *found = memmem(p, n, opt.offset, marker);
        if (!found) return 0;
        now.offset_at = (size_t)(found - p) + marker;
    } else if (now.offset_at > n || memcmp(p + now.offset_at - marker, opt.offset, marker)) return 0;
    size_t count = 0;
    for (const char *digit = p + now.offset_at; digit < p + n && *digit >= '0' && *digit <= '9' && count < 19; digit++, count++)
        *offset = *offset * 10 + (uint64_t)(*digit - '0');
    return count;
}

static void check(struct conn *c, const char *p, size_t n, uint64_t t) {
    /* Where the payload stands is learnt from the first message of each kind; then every one is alike, but that a
     * publication is longer, and its payload further behind, by the digits of an offset. */
    for (int kind = 0; kind < 2; kind++) {
        char letter = kind ? 'E' : 'F';
        size_t size = kind ? now.echo_size : now.size, at = now.at[kind], shift = 0;
        uint64_t offset = 0;
        if (!size) continue;
        if (opt.offset && !kind) {
            if (!(shift = read_offset(p, n, &offset))) continue;
            if (at != NOWHERE) at += shift;
        }
        if (at == NOWHERE) {
            const char *found = p;
            while ((found = memchr(found, '@', n - (size_t)(found - p))) && found + 1 < p + n && found[1] != letter) found++;
            if (!found || found + 1 >= p + n) continue;
            at = (size_t)(found - p);
        } else if (at + 2 > n || p[at] != '@' || p[at + 1] != letter) continue;
        uint32_t serial, where;
        bool good = at && at + size < n && p[at - 1] == '"' && p[at + size] == '"' && number(p + at + 2, 9, &serial) &&
                    number(p + at + 11, 6, &where) && !memcmp(p + at + HEAD, filler, size - HEAD) &&
                    (now.at[kind] == NOWHERE || n == now.len[kind] + shift) && (!shift || offset == serial + 1ull) &&
                    (!kind || now.echo.id == NOWHERE || has_id(p, n, at, serial));
        if (!good) { wrong.corrupt++; return; }
        now.at[kind] = at - shift;
        now.len[kind] = n - shift;
        (kind ? on_answer : on_publication)(c, serial, where, t);
        return;
    }
    if (!opt.ignore || !memmem(p, n, opt.ignore, strlen(opt.ignore))) wrong.stray++;
}

static void become_ready(struct conn *c, uint64_t t) {
    c->state = READY;
    c->asked = c->answered = 0;
    c->seen = ~0ull;
    c->next = c->room < 0 ? 0 : rooms[c->room].published;
    ready++;
    add(&connects, t - c->began);
}

static void join(struct conn *c, uint64_t t) {
    if (c->room < 0) { become_ready(c, t); return; }
    struct template subscribe = make_template(opt.subscribe, HEAD);
    c->state = JOINING;
    c->replies = 0;
    send_template(c, &subscribe, 'F', 0, (uint32_t)c->room);
    free(subscribe.text);
    if (!opt.sub_replies && c->state == JOINING) become_ready(c, t);
}

static void on_message(struct conn *c, const char *p, size_t n, uint64_t t) {
    if (opt.ping && n == 1 && *p == *opt.ping) { send_frame(c, 1, opt.ping + 2, strlen(opt.ping + 2)); return; }
    if (c->state != READY && opt.ignore && memmem(p, n, opt.ignore, strlen(opt.ignore))) return;
    if (c->state == GREETING) {
        if (++c->replies >= opt.hello_replies) join(c, t);
    } else if (c->state == JOINING) {
        if (memmem(p, n, "\"error\"", 7)) die("subscribing failed: %.*s", (int)(n < 300 ? n : 300), p);
        if (++c->replies >= opt.sub_replies) become_ready(c, t);
    } else if (asked_reply && !*asked_reply) {
        asked_reply = grow(asked_reply, n + 1);
        memcpy(asked_reply, p, n);
        asked_reply[n] = 0;
    } else check(c, p, n, t);
}

static void on_frame(struct conn *c, int first, char *body, size_t n, uint64_t t) {
    int opcode = first & 15;
    bool fin = first & 0x80;
    if (opcode == 9) { send_frame(c, 10, body, n); return; }
    if (opcode == 8) {
        if (!tearing_down && !storming) die("the server closed connection %d: %d %.*s", (int)(c - conns),
                               n > 1 ? (unsigned char)body[0] << 8 | (unsigned char)body[1] : 1005, n > 2 ? (int)n - 2 : 0, body + 2);
        c->closed_by_peer = true;
        return;
    }
    if (opcode > 2) return;
    if (fin && opcode) { on_message(c, body, n, t); return; }
    c->parts = grow(c->parts, c->parts_len + n);
    memcpy(c->parts + c->parts_len, body, n);
    c->parts_len += n;
    if (!fin) return;
    on_message(c, c->parts, c->parts_len, t);
    c->parts_len = 0;
}

/* How many bytes were whole frames. */
static size_t take_frames(struct conn *c, char *p, size_t n) {
    size_t used = 0;
    uint64_t t = clock_ns();
    while (n - used >= 2 && c->state != OFF) {
        unsigned char *f = (unsigned char *)p + used;
        size_t h = 2, len = f[1], left = n - used;
        if (len > 127 || f[0] & 0x70) die("the server sent a masked or compressed frame");
        if (len == 126) {
            if (left < 4) break;
            len = (size_t)f[2] << 8 | f[3];
            h = 4;
        } else if (len == 127) {
            if (left < 10) break;
            len = 0;
            for (int i = 2; i < 10; i++) len = len << 8 | f[i];
            h = 10;
        }
        if (len > READ_SIZE - 10) die("the server sent a frame of %zu bytes", len);
        if (left < h + len) break;
        used += h + len;
        on_frame(c, f[0], (char *)f + h, len, t);
    }
    return used;
}

static size_t upgrade(struct conn *c, char *p, size_t n) {
    char *end = memmem(p, n, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    if (strncmp(p, "HTTP/1.1 101", 12) || !strstr(p, ACCEPT)) {
        if (!storming) die("the server refused an upgrade: %.200s", p);
        ended(c, "refused");
        return n;
    }
    c->state = GREETING;
    c->replies = 0;
    if (opt.hello) send_frame(c, 1, opt.hello, strlen(opt.hello));
    if (!opt.hello_replies) join(c, clock_ns());
    return (size_t)(end - p) + 4;
}

/* True if there may be more. */
static bool receive(struct conn *c) {
    if (c->in_len) memcpy(rbuf, c->in, c->in_len);
    ssize_t got = recv(c->fd, rbuf + c->in_len, READ_SIZE - c->in_len, 0);
    if (got < 0 && errno == EAGAIN) return false;
    if (got <= 0) { ended(c, got ? strerror(errno) : "end of stream"); return false; }
    bytes_in += (uint64_t)got;
    size_t n = c->in_len + (size_t)got, used = 0;
    if (c->state == UPGRADING) used = upgrade(c, rbuf, n);
    if (c->state > UPGRADING) used += take_frames(c, rbuf + used, n - used);
    if (c->state == OFF) return false;
    c->in_len = n - used;
    if (c->in_len > c->in_cap) c->in = grow(c->in, c->in_cap = c->in_len);
    memcpy(c->in, rbuf + used, c->in_len);
    return n == READ_SIZE;
}

/* ---- connections ---- */
static void open_conn(struct conn *c) {
    int on = 1, i = (int)(c - conns);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)}, from = {.sin_family = AF_INET};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0) die("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* A source address has 28,000 ports, and those of closed connections are not free at once: each 500th turn
     * takes another address. */
    static uint32_t opened;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + opened++ / 500 % 200);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("bind: %s", strerror(errno));
    c->state = CONNECTING;
    c->pollout = true;
    c->closing = c->closed_by_peer = false;
    c->in_len = c->out_len = c->parts_len = 0;
    if (!c->began) c->began = clock_ns();
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect %d: %s", i, strerror(errno));
    struct epoll_event event = {.events = EDGE | EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void drop(struct conn *c) {
    ready -= c->state == READY;
    off++;
    c->state = OFF;
    close(c->fd);
}

static void ended(struct conn *c, const char *why) {
    if (c->state == OFF) return;
    if (storming && c->state != READY) { /* refused or reset: it comes again */
        drop(c);
        off--;
        retries++;
        open_conn(c);
        return;
    }
    if (!tearing_down) die("connection %d ended: %s", (int)(c - conns), why);
    drop(c);
}

static void connected(struct conn *c) {
    char request[600];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) { ended(c, strerror(error)); return; }
    watch(c, false);
    c->state = UPGRADING;
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n",
                     opt.path, opt.port, KEY, opt.protocol ? "Sec-WebSocket-Protocol: " : "",
                     opt.protocol ? opt.protocol : "", opt.protocol ? "\r\n" : "");
    put(c, request, (size_t)n);
}

/* Edge triggered, which halves what a poll costs: one read takes all there is, or fills its megabyte. */
static void handle(struct conn *c, uint32_t events) {
    if (c->state == OFF) return;
    if (c->state == CONNECTING) { if (events & ~(uint32_t)EPOLLIN) connected(c); return; }
    if (events & EPOLLOUT) flush(c);
    while (c->state != OFF && events & ~(uint32_t)EPOLLOUT && receive(c)) {}
    if (c->state != OFF && events & (EPOLLRDHUP | EPOLLHUP)) receive(c); /* what came with the last data */
}

/* Those that measure latency beside a fan-out have an epoll of their own and are looked at between all others. */
static void poll_first(void) {
    struct epoll_event events[64];
    int n = epoll_wait(ep_first, events, 64, 0);
    for (int i = 0; i < n; i++) handle(events[i].data.ptr, events[i].events);
}

static void poll_until(uint64_t t) {
    struct epoll_event events[256];
    int n = epoll_wait(ep, events, 256, 0);
    uint64_t from = n ? t : clock_ns();
    if (t > from) {
        struct timespec wait = {.tv_sec = (time_t)((t - from) / 1000000000), .tv_nsec = (long)((t - from) % 1000000000)};
        struct pollfd fd = {.fd = ep, .events = POLLIN};
        if (ppoll(&fd, 1, &wait, NULL) > 0) n = epoll_wait(ep, events, 256, 0);
    }
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr) handle(events[i].data.ptr, events[i].events);
        if (ep_first >= 0 && (!events[i].data.ptr || i % 4 == 3)) poll_first();
    }
}

static void poll_for(double seconds) {
    for (uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9); clock_ns() < end;) poll_until(end);
}

/* Wait until the server is idle but for a tenth of its time, which it may need for pings; 3 s at most. */
static void settle(void) {
    double cpu = server_cpu();
    for (int quiet = 0, i = 0; quiet < 4 && i < 150; i++) {
        poll_for(0.02);
        double then = server_cpu();
        quiet = then - cpu < 0.002 ? quiet + 1 : 0;
        cpu = then;
    }
}

/* ---- steps ---- */
static const char *keys;

static double value(const char *key, double otherwise) {
    size_t n = strlen(key);
    for (const char *p = keys; p && *p; p = strchr(p, ','), p += p && *p == ',')
        if (!strncmp(p, key, n) && p[n] == '=') return strtod(p + n + 1, NULL);
    return otherwise;
}

static bool text(const char *key, char *into, size_t size) {
    size_t n = strlen(key);
    for (const char *p = keys; p && *p; p = strchr(p, ','), p += p && *p == ',')
        if (!strncmp(p, key, n) && p[n] == '=') return snprintf(into, size, "%.*s", (int)strcspn(p + n + 1, ","), p + n + 1) > 0;
    return false;
}

static struct { double cpu, own; uint64_t t; } begun;

static void begin(void) {
    begun.cpu = server_cpu();
    begun.own = own_cpu();
    begun.t = clock_ns();
}

static double share_of(double seconds, double elapsed) { return elapsed > 0 ? seconds / elapsed : 0; }

/* Each step's line begins with what it cost; the caller adds to it and ends it. */
static double print_costs(const char *kind, double elapsed) {
    double cpu = server_cpu() - begun.cpu, own = own_cpu() - begun.own;
    bool ok = !(wrong.lost | wrong.doubled | wrong.reordered | wrong.corrupt | wrong.stray);
    printf("{\"step\":\"%s\",\"ok\":%s,\"elapsed_s\":%.4f,\"server_cpu_s\":%.6f,\"load_cpu_s\":%.6f,"
           "\"server_busy\":%.3f,\"load_busy\":%.3f",
           kind, ok ? "true" : "false", elapsed, cpu, own, share_of(cpu, elapsed), share_of(own, elapsed));
    if (!ok)
        printf(",\"lost\":%lld,\"doubled\":%llu,\"reordered\":%llu,\"corrupt\":%llu,\"stray\":%llu", (long long)wrong.lost,
               (unsigned long long)wrong.doubled, (unsigned long long)wrong.reordered, (unsigned long long)wrong.corrupt,
               (unsigned long long)wrong.stray);
    return cpu;
}

static double since_begun(void) { return (double)(clock_ns() - begun.t) / 1e9; }

/* Opens `list[0..n)`, at most `pace` of them under way at once; returns the seconds it took. */
static double open_all(int *list, int n, int pace) {
    int opened = 0, goal = ready + n, seen = -1;
    uint64_t t0 = clock_ns(), progress = t0;
    memset(&connects, 0, sizeof connects);
    for (int i = 0; i < n; i++) conns[list[i]].began = 0;
    while (ready < goal) {
        while (opened < n && opened - (n - (goal - ready)) < pace) open_conn(&conns[list[opened++]]);
        poll_until(clock_ns() + 100000000);
        if (ready != seen) { seen = ready; progress = clock_ns(); }
        if ((double)(clock_ns() - progress) > 4 * opt.stall * 1e9) die("only %d of %d connections came about", n - (goal - ready), n);
    }
    return (double)(clock_ns() - t0) / 1e9;
}

/* connect: conns, rooms (0: they join none), pace. A new group; its connections are spread over rooms of its own. */
static void step_connect(void) {
    int n = (int)value("conns", 100), spread = (int)value("rooms", 1), *list = grow(NULL, (size_t)n * sizeof *list);
    if (n < 1 || nconns + n > MAX_CONNS || nrooms + spread > MAX_ROOMS || spread > n) die("too many connections or rooms");
    for (int i = 0; i < n; i++) {
        struct conn *c = &conns[nconns + i];
        c->group = ngroups;
        c->room = spread ? nrooms + i % spread : -1;
        if (spread) {
            if (i < spread) rooms[c->room].publisher = nconns + i;
            rooms[c->room].members++;
        }
        list[i] = nconns + i;
    }
    nconns += n;
    nrooms += spread;
    ngroups++;
    settle();
    long kib = server_kib();
    begin();
    double elapsed = open_all(list, n, (int)value("pace", 64));
    settle();
    double cpu = print_costs("connect", elapsed);
    long grown = server_kib() - kib;
    printf(",\"conns\":%d,\"cpu_us\":%.2f,\"rate\":%.0f,\"rss_kib\":%ld,\"kib_per_conn\":%.3f", n, cpu / n * 1e6, n / elapsed,
           kib + grown, (double)grown / n);
    print_quantiles("", &connects);
    free(list);
}

/* storm: group. All of its connections are reset, and all come back at once; those that are refused try again. */
static void step_storm(void) {
    int group = (int)value("group", 0), n = 0, *list = grow(NULL, (size_t)nconns * sizeof *list);
    struct linger reset = {1, 0};
    storming = true;
    retries = 0;
    begin();
    for (int i = 0; i < nconns; i++) {
        if (conns[i].group != group || conns[i].state != READY) continue;
        setsockopt(conns[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        drop(&conns[i]);
        off--;
        list[n++] = i;
    }
    double elapsed = open_all(list, n, n);
    storming = false;
    settle();
    double cpu = print_costs("storm", elapsed);
    printf(",\"conns\":%d,\"cpu_us\":%.2f,\"retries\":%llu", n, cpu / (n + !n) * 1e6, (unsigned long long)retries);
    print_quantiles("", &connects);
    free(list);
}

/* close: group (-1: all), how=close|eof|reset, pace. `close` waits for the server's close frame and end of stream. */
static void step_close(void) {
    int group = (int)value("group", -1), pace = (int)value("pace", 64), n = 0, closing = 0, unanswered = 0;
    char how[16] = "close";
    struct linger reset = {1, 0};
    text("how", how, sizeof how);
    tearing_down = true;
    settle();
    begin();
    uint64_t end = begun.t + 30000000000ull;
    for (int i = 0; i < nconns; i++) {
        struct conn *c = &conns[i];
        if (c->state != READY || (group >= 0 && c->group != group)) continue;
        n++;
        if (!strcmp(how, "close")) {
            int gone = off;
            c->closing = true;
            send_frame(c, 8, "\x03\xe8", 2);
            for (closing++; closing >= pace && clock_ns() < end; closing -= off - gone, gone = off) poll_until(clock_ns() + 10000000);
        } else {
            if (!strcmp(how, "reset")) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            drop(c);
        }
    }
    for (int waiting = 1; waiting && clock_ns() < end;) {
        waiting = 0;
        for (int i = 0; i < nconns; i++) waiting += conns[i].closing && conns[i].state != OFF;
        if (waiting) poll_until(clock_ns() + 10000000);
    }
    double elapsed = since_begun();
    for (int i = 0; i < nconns; i++) if (conns[i].closing) unanswered += !conns[i].closed_by_peer;
    settle();
    double cpu = print_costs("close", elapsed);
    printf(",\"conns\":%d,\"cpu_us\":%.2f,\"unanswered\":%d,\"rss_kib\":%ld", n, cpu / (n + !n) * 1e6, unanswered, server_kib());
    tearing_down = false;
}

/* idle: seconds. What the server does for connections that do nothing. */
static void step_idle(void) {
    settle();
    begin();
    poll_for(value("seconds", 5));
    double elapsed = since_begun(), cpu = print_costs("idle", elapsed);
    printf(",\"conns\":%d,\"rss_kib\":%ld,\"cpu_ms_per_s\":%.3f", ready, server_kib(), cpu / elapsed * 1e3);
}

/* ask: action. Sends a request of that name on the first connection and prints the reply, which must be JSON. */
static void step_ask(void) {
    char action[64] = "", message[128];
    text("action", action, sizeof action);
    int n = snprintf(message, sizeof message, "{\"action\":\"%s\",\"data\":null,\"id\":1}", action);
    asked_reply = calloc(1, 1);
    begin();
    send_frame(&conns[0], 1, message, (size_t)n);
    while (!*asked_reply && since_begun() < opt.stall) poll_until(clock_ns() + 10000000);
    if (!*asked_reply) die("no reply to %s", action);
    print_costs("ask", since_begun());
    printf(",\"reply\":%s", asked_reply);
    free(asked_reply);
    asked_reply = NULL;
}

static uint32_t power_of_two(uint32_t n) { return n < 2 ? 1 : 1u << (32 - __builtin_clz(n - 1)); }

static void prepare_traffic(double fan_rate, double ask_rate) {
    uint32_t ring = power_of_two(fan_rate > 0 ? OPEN_RING : now.window), ask_ring = power_of_two(ask_rate > 0 ? OPEN_RING : now.ask_window);
    for (int i = 0; i < nconns && now.fan >= 0; i++) {
        struct room *room = conns[i].room < 0 ? NULL : &rooms[conns[i].room];
        if (!room || room->ring == ring) continue;
        room->ring = ring;
        room->left = grow(room->left, ring * sizeof *room->left);
        room->since = grow(room->since, ring * sizeof *room->since);
    }
    for (int i = 0; i < nconns && now.ask >= 0; i++) {
        struct conn *c = &conns[i];
        if (c->group != now.ask || c->ring == ask_ring) continue;
        c->ring = ask_ring;
        c->since = grow(c->since, ask_ring * sizeof *c->since);
    }
}

/* Moves the askers between the two epolls, see poll_first. */
static void ask_first(bool on) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (on) {
        ep_first = epoll_create1(EPOLL_CLOEXEC);
        epoll_ctl(ep, EPOLL_CTL_ADD, ep_first, &event);
    }
    for (int i = 0; i < nconns; i++) {
        struct conn *c = &conns[i];
        if (c->group != now.ask || c->state != READY) continue;
        event = (struct epoll_event){.events = EDGE | (c->pollout ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(on ? ep : ep_first, EPOLL_CTL_DEL, c->fd, NULL);
        epoll_ctl(on ? ep_first : ep, EPOLL_CTL_ADD, c->fd, &event);
    }
    if (!on) { close(ep_first); ep_first = -1; }
}

struct pacer { double rate; uint64_t due, sent; int *turn, turns; };

static uint64_t next_due(const struct pacer *p) { return p->due + (uint64_t)((double)p->sent * 1e9 / p->rate); }

/* Sends what is due by t, unless as much is in flight as can be followed; then it goes later, its clock running. */
static void send_due(struct pacer *p, bool fan, uint64_t t) {
    while (next_due(p) <= t && !now.stopping) {
        int who = p->turn[p->sent % (uint64_t)p->turns];
        if (fan ? rooms[who].published - rooms[who].completed >= rooms[who].ring : conns[who].asked - conns[who].answered >= conns[who].ring) return;
        add(&lateness, t - next_due(p));
        if (fan) publish(who, next_due(p));
        else ask(&conns[who], next_due(p));
        p->sent++;
    }
}

/* Runs for `seconds`, or until the limit, and then until nothing is in flight. False if the server falls silent. */
static bool drive(struct pacer *fan, struct pacer *asking, double seconds, bool spin) {
    uint64_t t = clock_ns(), end = t + (uint64_t)(seconds * 1e9), progress = t, seen = bytes_in;
    fan->due = asking->due = t;
    fan->sent = asking->sent = 0;
    now.stopping = false;
    if (now.sweep) sweep(clock_ns());
    else if (now.window)
        for (uint32_t k = 0; k < now.window; k++) for (int i = 0; i < fan->turns && !over(); i++) publish(fan->turn[i], clock_ns());
    if (now.ask_window)
        for (uint32_t k = 0; k < now.ask_window; k++) for (int i = 0; i < asking->turns && !over(); i++) ask(&conns[asking->turn[i]], clock_ns());
    for (;;) {
        t = clock_ns();
        if (t >= end) now.stopping = true;
        uint64_t wake = now.stopping ? t + 100000000 : end;
        if (fan->rate > 0 && !over()) { send_due(fan, true, t); if (next_due(fan) < wake) wake = next_due(fan); }
        if (asking->rate > 0 && !over()) { send_due(asking, false, t); if (next_due(asking) < wake) wake = next_due(asking); }
        if (over() && !now.in_flight) return true;
        if (wake > t + 100000000) wake = t + 100000000;
        poll_until(spin ? 0 : wake);
        if (bytes_in != seen || !now.in_flight) { seen = bytes_in; progress = t; }
        if ((double)(t - progress) > opt.stall * 1e9) return false;
    }
}

static void give_up(void) {
    for (int i = 0; i < nconns; i++) {
        struct conn *c = &conns[i];
        if (c->room >= 0) { wrong.lost += rooms[c->room].published - c->next; c->next = rooms[c->room].published; }
        wrong.lost += c->asked - c->answered;
        c->answered = c->asked;
    }
    for (int r = 0; r < nrooms; r++) rooms[r].completed = rooms[r].published;
    now.in_flight = 0;
}

/* traffic: seconds, warm (seconds before), limit (publications, 0: none), size,
 *   fan=GROUP with window=N or rate=N (publications a second in all), sweep=1: the server publishes to all rooms,
 *   ask=GROUP with ask_window=N or ask_rate=N (requests a second in all), ask_size, spin=1: do not sleep. */
static void step_traffic(void) {
    struct pacer fan = {value("rate", 0), 0, 0, grow(NULL, (size_t)nrooms * sizeof(int)), 0};
    struct pacer asking = {value("ask_rate", 0), 0, 0, grow(NULL, (size_t)nconns * sizeof(int)), 0};
    double warm = value("warm", 0.3), seconds = value("seconds", 2);
    memset(&now, 0, sizeof now);
    memset(&wrong, 0, sizeof wrong);
    now.fan = (int)value("fan", -1);
    now.ask = (int)value("ask", -1);
    now.sweep = value("sweep", 0) > 0;
    now.window = now.fan < 0 || fan.rate > 0 ? 0 : (uint32_t)value("window", 1);
    now.ask_window = now.ask < 0 || asking.rate > 0 ? 0 : (uint32_t)value("ask_window", 1);
    size_t size = (size_t)value("size", 128), ask_size = (size_t)value("ask_size", (double)size);
    if (size < HEAD || ask_size < HEAD || size > READ_SIZE / 2 || ask_size > READ_SIZE / 2) die("a size is at least %d", HEAD);
    now.size = now.fan < 0 ? 0 : size;
    now.echo_size = now.ask < 0 ? 0 : ask_size;
    now.at[0] = now.at[1] = now.id_at = now.offset_at = NOWHERE;
    now.publish = make_template(now.sweep ? "{\"action\":\"sweep\",\"data\":{\"payload\":\"%P\"}}" : opt.publish, size);
    now.echo = make_template(opt.echo, ask_size);
    for (int i = 0; i < nconns; i++) {
        struct conn *c = &conns[i];
        if (c->group == now.fan && c->room >= 0 && rooms[c->room].publisher == i) fan.turn[fan.turns++] = c->room;
        if (c->group == now.ask) asking.turn[asking.turns++] = i;
    }
    if ((now.fan >= 0 && !fan.turns) || (now.ask >= 0 && !asking.turns)) die("that group has nobody for it");
    prepare_traffic(fan.rate, asking.rate);
    bool first = now.fan >= 0 && now.ask >= 0, spin = value("spin", 0) > 0;
    if (first) ask_first(true);
    bool alive = warm <= 0 || drive(&fan, &asking, warm, spin);
    now.published = 0;
    now.limit = (uint64_t)value("limit", 0);
    memset(&each, 0, sizeof each);
    memset(&last, 0, sizeof last);
    memset(&answers, 0, sizeof answers);
    memset(&lateness, 0, sizeof lateness);
    begin();
    now.counting = true;
    if (alive) alive = drive(&fan, &asking, seconds, spin);
    double elapsed = since_begun(), cpu_then = server_cpu() - begun.cpu, own_then = own_cpu() - begun.own;
    now.counting = false;
    if (alive) poll_for(0.03); /* something doubled would come now */
    else give_up();
    if (first) ask_first(false);
    uint64_t done = now.deliveries + now.replies;
    begun.cpu = server_cpu() - cpu_then;
    begun.own = own_cpu() - own_then;
    print_costs("traffic", elapsed);
    printf(",\"publications\":%llu,\"deliveries\":%llu,\"replies\":%llu,\"rate\":%.1f,\"cpu_us\":%.4f", (unsigned long long)now.published,
           (unsigned long long)now.deliveries, (unsigned long long)now.replies, (double)done / elapsed,
           done ? cpu_then / (double)done * 1e6 : 0);
    print_quantiles("", &each);
    print_quantiles("last_", &last);
    print_quantiles("echo_", &answers);
    if (lateness.n) printf(",\"late_p99_us\":%.1f", quantile_us(&lateness, .99));
    if (!alive) printf(",\"stalled\":true");
    free(now.publish.text);
    free(now.echo.text);
    free(fan.turn);
    free(asking.turn);
    if (!alive) { puts("}"); exit(1); }
}

static const struct { const char *kind; void (*run)(void); } steps[] = {
    {"connect", step_connect}, {"traffic", step_traffic}, {"idle", step_idle}, {"close", step_close}, {"storm", step_storm}, {"ask", step_ask},
};

static void setup(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1); /* ns; a fixed rate is to be one */
    ep = epoll_create1(EPOLL_CLOEXEC);
    ep_first = -1;
    conns = calloc(MAX_CONNS, sizeof *conns);
    rooms = calloc(MAX_ROOMS, sizeof *rooms);
    rbuf = grow(NULL, READ_SIZE);
    filler = grow(NULL, READ_SIZE);
    if (!conns || !rooms) die("out of memory");
    for (int i = 0; i < READ_SIZE; i++) filler[i] = (char)('a' + (i * 7 + i / 26) % 26);
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"port", 1, 0, 'p'}, {"pid", 1, 0, 'P'}, {"path", 1, 0, 'u'}, {"protocol", 1, 0, 'o'}, {"stall", 1, 0, 't'},
        {"hello", 1, 0, 'h'}, {"hello-replies", 1, 0, 'H'}, {"subscribe", 1, 0, 's'}, {"subscribe-replies", 1, 0, 'S'},
        {"publish", 1, 0, 'b'}, {"echo", 1, 0, 'e'}, {"ping", 1, 0, 'i'}, {"ignore", 1, 0, 'g'}, {"offset", 1, 0, 'f'}, {0}};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (o) {
        case 'p': opt.port = atoi(optarg); break;
        case 'P': opt.pid = atoi(optarg); break;
        case 'u': opt.path = optarg; break;
        case 'o': opt.protocol = optarg; break;
        case 't': opt.stall = atof(optarg); break;
        case 'h': opt.hello = optarg; break;
        case 'H': opt.hello_replies = atoi(optarg); break;
        case 's': opt.subscribe = optarg; break;
        case 'S': opt.sub_replies = atoi(optarg); break;
        case 'b': opt.publish = optarg; break;
        case 'e': opt.echo = optarg; break;
        case 'i': opt.ping = optarg; break; /* "2:3": a message "2" is answered "3" */
        case 'g': opt.ignore = optarg; break; /* what is unasked for, if a message contains it */
        case 'f': opt.offset = optarg; break; /* what stands in front of a publication's number */
        default: return 2;
    }
    if (!opt.port || !opt.pid) die("--port and --pid are needed");
    setup();
    bool ok = true;
    for (int i = optind; i < argc; i++) {
        size_t n = strcspn(argv[i], ":"), k = 0, count = sizeof steps / sizeof *steps;
        while (k < count && (strlen(steps[k].kind) != n || strncmp(steps[k].kind, argv[i], n))) k++;
        if (k == count) die("no step %s", argv[i]);
        keys = argv[i][n] ? argv[i] + n + 1 : NULL;
        memset(&wrong, 0, sizeof wrong);
        steps[k].run();
        puts("}");
        fflush(stdout);
        ok &= !(wrong.lost | wrong.doubled | wrong.reordered | wrong.corrupt | wrong.stray);
    }
    return ok ? 0 : 1;
}
