#include "fl_monitor_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "fl_run_private.h"

#define POLLED_MAX (8 + FL_MONITOR_CLIENTS)
#define RECORDS 64
#define ORPHAN_MS 5000
#define NR_PIDFD_SEND_SIGNAL 424
#define NR_PIDFD_OPEN 434

/* ---- saying something ---- */

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* An event of another thread's pipe is never waited for: who does not listen is not told. */
static void tell_caller(struct fl_monitor_life *l, int what, int number, int value)
{
    struct fl_run_record record = {what, number, value, 0};

    if (l->m.news >= 0 && write(l->m.news, &record, sizeof(record)) < 0)
        close_one(&l->m.news);
}

static void drop(struct fl_monitor_life *l, int number)
{
    close_one(&l->clients[number].fd);
    l->clients[number].wants = l->clients[number].owes = false;
    if (l->input_from == number)
        l->input_from = -1;
    if (number == 0 && l->m.stdin_once)
        l->input_ends = true;
}

/* False: it has gone, or does not take it now (then EAGAIN). */
bool fl_monitor_send(struct fl_monitor_life *l, int number, const void *data, size_t size)
{
    struct fl_monitor_client *client = &l->clients[number];

    if (client->fd < 0)
        return false;
    if (send(client->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return true;
    if (errno != EAGAIN)
        drop(l, number);
    return false;
}

static void send_number(struct fl_monitor_life *l, int number, char what, const int32_t *values, size_t count)
{
    char message[16] = {what};

    memcpy(message + 1, values, count * sizeof(*values));
    fl_monitor_send(l, number, message, 1 + count * sizeof(*values));
}

/* ---- the program's output ---- */

static bool is_sending(const struct fl_monitor_life *l)
{
    for (int i = 0; i < FL_MONITOR_CLIENTS; i++)
        if (l->clients[i].owes)
            return true;
    return false;
}

static void pass_on(struct fl_monitor_life *l, int number)
{
    struct fl_monitor_client *client = &l->clients[number];

    if (client->owes && (fl_monitor_send(l, number, l->chunk, l->chunk_size) || client->fd < 0))
        client->owes = false;
}

/* False at its end, or when there is nothing now. */
static bool read_output(struct fl_monitor_life *l, int *fd, int stream)
{
    ssize_t got = read(*fd, l->chunk + 1, FL_MONITOR_CHUNK);

    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            close_one(fd); /* EIO: a terminal that nobody has open any more */
        return false;
    }
    fl_monitor_log_add(&l->log, stream, l->chunk + 1, (size_t)got);
    l->chunk[0] = stream == 0 ? 'o' : 'r';
    l->chunk_size = 1 + (size_t)got;
    if (l->ended) {
        fl_monitor_add_last(l, l->chunk, l->chunk_size);
        return true;
    }
    for (int i = 0; i < FL_MONITOR_CLIENTS; i++) {
        l->clients[i].owes = l->clients[i].wants;
        pass_on(l, i);
    }
    return true;
}

/* ---- its input ---- */

static int input_of(const struct fl_monitor_life *l)
{
    return l->m.master >= 0 ? l->m.master : l->m.in;
}

static void write_input(struct fl_monitor_life *l)
{
    while (l->input_at < l->input_size) {
        int fd = input_of(l);
        ssize_t done = fd < 0 ? -1 : write(fd, l->input + l->input_at, l->input_size - l->input_at);

        if (done < 0 && fd >= 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (done < 0) { /* nobody reads it any more: it is taken nevertheless, as by /dev/null */
            close_one(&l->m.in);
            break;
        }
        l->input_at += (size_t)done;
    }
    if (l->input_size > 0 && l->input_from >= 0)
        send_number(l, l->input_from, 'a', NULL, 0);
    l->input_at = l->input_size = 0;
    l->input_from = -1;
    if (l->input_ends)
        close_one(&l->m.in);
}

static void set_size(struct fl_monitor_life *l)
{
    struct winsize size = {.ws_row = (unsigned short)l->m.rows, .ws_col = (unsigned short)l->m.columns};

    if (l->m.master >= 0 && size.ws_row != 0)
        ioctl(l->m.master, TIOCSWINSZ, &size);
}

/* ---- clients ---- */

static void signal_child(struct fl_monitor_life *l, int from, unsigned char number)
{
    int32_t answer = 0;

    if (l->ended || l->m.life < 0)
        answer = ESRCH;
    else if (number == 0 || write(l->m.life, &number, 1) != 1)
        answer = number == 0 ? EINVAL : errno;
    send_number(l, from, 'k', &answer, 1);
}

static void resize(struct fl_monitor_life *l, const char *data)
{
    uint16_t values[2];

    memcpy(values, data, sizeof(values));
    l->m.rows = values[0];
    l->m.columns = values[1];
    set_size(l);
}

static void obey(struct fl_monitor_life *l, int from, const char *message, size_t size)
{
    switch (message[0]) {
    case 'A': l->clients[from].wants = true; break;
    case 'i':
        if (l->input_size != 0 || size == 1)
            break; /* it has not waited for its turn */
        memcpy(l->input, message + 1, size - 1);
        l->input_size = size - 1;
        l->input_from = from;
        write_input(l);
        break;
    case 'e':
        l->input_ends = true;
        write_input(l);
        break;
    case 'w':
        if (size == 5)
            resize(l, message + 1);
        break;
    case 's':
        if (size == 2)
            signal_child(l, from, (unsigned char)message[1]);
        break;
    default: break;
    }
}

void fl_monitor_hear(struct fl_monitor_life *l, int number)
{
    char message[1 + FL_MONITOR_CHUNK];
    ssize_t got = recv(l->clients[number].fd, message, sizeof(message), MSG_DONTWAIT);

    if (got > 0)
        obey(l, number, message, (size_t)got);
    else if (got == 0 || (errno != EAGAIN && errno != EINTR))
        drop(l, number);
}

static void welcome(struct fl_monitor_life *l)
{
    int fd = accept4(l->m.listener, NULL, NULL, SOCK_CLOEXEC);

    for (int i = 1; i < FL_MONITOR_CLIENTS && fd >= 0; i++) {
        if (l->clients[i].fd < 0) {
            l->clients[i].fd = fd;
            return;
        }
    }
    if (fd >= 0)
        close(fd);
}

/* ---- the program's life ---- */

static void take_terminal(struct fl_monitor_life *l)
{
    char byte, space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
    ssize_t got = recvmsg(l->m.terminal, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *head = got == 1 ? CMSG_FIRSTHDR(&message) : NULL;

    if (head != NULL && head->cmsg_type == SCM_RIGHTS) {
        memcpy(&l->m.master, CMSG_DATA(head), sizeof(int));
        fcntl(l->m.master, F_SETFL, O_RDWR | O_NONBLOCK);
        set_size(l);
    }
    if (got >= 0 || errno != EAGAIN)
        close_one(&l->m.terminal);
}

static void note_record(struct fl_monitor_life *l, const struct fl_run_record *record)
{
    switch (record->what) {
    case FL_RUN_PID:
        l->child = record->value;
        l->child_fd = (int)syscall(NR_PIDFD_OPEN, l->child, 0);
        break;
    case FL_RUN_EXIT:
        l->ended = true;
        l->status = record->value;
        break;
    case FL_RUN_MAP: tell_caller(l, record->what, record->number, record->value); break;
    default:
        l->failed = true;
        tell_caller(l, record->what, record->number, record->value);
    }
}

static void read_report(struct fl_monitor_life *l)
{
    struct fl_run_record records[RECORDS];
    ssize_t got = read(l->report, records, sizeof(records));

    for (ssize_t i = 0; got > 0 && i < got / (ssize_t)sizeof(*records); i++)
        note_record(l, &records[i]);
    if (got == 0) { /* the keeper was killed if it has not said how it ended */
        l->orphaned = l->ended = true;
        close_one(&l->report);
    }
}

/* The child has executed the program, or has ended: then it has said why before. */
static void become_ready(struct fl_monitor_life *l)
{
    char byte;

    if (read(l->ready, &byte, 1) < 0 && errno == EINTR)
        return;
    close_one(&l->ready);
    read_report(l);
    if (l->failed || l->child == 0)
        return;
    l->begun = true;
    if (l->m.dir >= 0)
        fl_monitor_note(l->m.dir, "running", l->child, getpid(), fl_monitor_now());
    tell_caller(l, FL_RUN_BEGUN, getpid(), l->child);
    fl_run_give_back(fl_run_open_maps());
}

/* ---- the loop ---- */

struct polls {
    struct pollfd fds[POLLED_MAX];
    int count;
};

static int add(struct polls *p, int fd, short events)
{
    p->fds[p->count] = (struct pollfd){.fd = fd, .events = events};
    return p->count++;
}

static bool is_ready(const struct polls *p, int number)
{
    return p->fds[number].fd >= 0 && p->fds[number].revents != 0;
}

enum { REPORT, READY, TERMINAL, LISTENER, OUT, ERR, INPUT, CLIENTS };

static void prepare(struct fl_monitor_life *l, struct polls *p)
{
    bool sending = is_sending(l);
    int out = l->m.master >= 0 ? l->m.master : l->m.out;

    p->count = 0;
    add(p, l->report, POLLIN);
    add(p, l->ready, POLLIN);
    add(p, l->m.terminal, POLLIN);
    add(p, l->m.listener, POLLIN);
    add(p, sending ? -1 : out, POLLIN);
    add(p, sending ? -1 : l->m.err, POLLIN);
    add(p, l->input_size > 0 ? input_of(l) : -1, POLLOUT);
    for (int i = 0; i < FL_MONITOR_CLIENTS; i++)
        add(p, l->clients[i].fd, (short)(POLLIN | (l->clients[i].owes ? POLLOUT : 0)));
}

static void serve_clients(struct fl_monitor_life *l, const struct polls *p)
{
    for (int i = 0; i < FL_MONITOR_CLIENTS; i++) {
        short events = p->fds[CLIENTS + i].fd >= 0 ? p->fds[CLIENTS + i].revents : 0;

        if (events & POLLOUT)
            pass_on(l, i);
        if ((events & (POLLIN | POLLHUP | POLLERR)) && l->clients[i].fd >= 0)
            fl_monitor_hear(l, i);
    }
}

static void turn(struct fl_monitor_life *l)
{
    struct polls p;
    int *out = l->m.master >= 0 ? &l->m.master : &l->m.out;

    prepare(l, &p);
    if (poll(p.fds, (nfds_t)p.count, -1) < 0)
        return;
    if (is_ready(&p, TERMINAL))
        take_terminal(l);
    if (is_ready(&p, READY))
        become_ready(l);
    else if (is_ready(&p, REPORT))
        read_report(l);
    if (l->ended)
        return;
    if (is_ready(&p, OUT))
        read_output(l, out, 0);
    if (is_ready(&p, ERR) && !is_sending(l))
        read_output(l, &l->m.err, 1);
    if (is_ready(&p, INPUT))
        write_input(l);
    if (is_ready(&p, LISTENER))
        welcome(l);
    serve_clients(l, &p);
    if (l->input_ends && l->m.in >= 0)
        write_input(l);
}

/* What the program had written when it ended: it is in the pipes already. Some have not got the chunk before it yet. */
static void drain(struct fl_monitor_life *l)
{
    if (l->m.terminal >= 0)
        take_terminal(l);
    if (is_sending(l))
        fl_monitor_add_last(l, l->chunk, l->chunk_size);
    for (int i = 0; i < FL_MONITOR_CLIENTS; i++) {
        l->clients[i].at = l->clients[i].owes ? 0 : l->last_size;
        l->clients[i].owes = false;
    }
    for (;;) {
        int *out = l->m.master >= 0 ? &l->m.master : &l->m.out;

        if (*out >= 0 && read_output(l, out, 0))
            continue;
        if (l->m.err < 0 || !read_output(l, &l->m.err, 1))
            return;
    }
}

/* ---- the end ---- */

static bool was_out_of_memory(int fd)
{
    char text[512];
    ssize_t got = fd < 0 ? 0 : pread(fd, text, sizeof(text) - 1, 0);
    const char *found;

    if (got <= 0)
        return false;
    text[got] = '\0';
    found = strstr(text, "oom_kill ");
    return found != NULL && found[9] != '0';
}

/* It ends with its keeper, unless it has executed a setuid program or asked not to (PR_SET_PDEATHSIG). */
static void end_orphan(struct fl_monitor_life *l)
{
    struct pollfd gone = {.fd = l->child_fd, .events = POLLIN};

    if (l->orphaned && l->child_fd >= 0 && syscall(NR_PIDFD_SEND_SIGNAL, l->child_fd, SIGKILL, NULL, 0) == 0)
        poll(&gone, 1, ORPHAN_MS);
    close_one(&l->child_fd);
}

static void finish(struct fl_monitor_life *l)
{
    char message[1 + 2 * sizeof(int32_t)] = {'x'};
    int32_t values[2];
    int how;

    close_one(&l->m.life);
    while (waitpid(l->keeper, &how, 0) < 0 && errno == EINTR)
        ;
    end_orphan(l);
    if (l->whole_tree) /* a keeper that was killed has left its orphans to us */
        fl_run_kill_all();
    l->out_of_memory = was_out_of_memory(l->m.oom);
    close_one(&l->m.oom);
    for (const char *const *path = l->m.cgroups; path != NULL && *path != NULL; path++)
        rmdir(*path);
    fl_monitor_log_end(&l->log);
    if (l->m.dir >= 0) {
        if (l->begun)
            fl_monitor_note(l->m.dir, "exit", l->status, l->out_of_memory, fl_monitor_now());
        unlinkat(l->m.dir, "attach", 0);
    }
    close_one(&l->m.lock);
    tell_caller(l, FL_RUN_EXIT, 0, l->status);
    values[0] = l->status;
    values[1] = l->out_of_memory;
    memcpy(message + 1, values, sizeof(values));
    fl_monitor_add_last(l, message, sizeof(message));
}

static void live(struct fl_monitor_life *l)
{
    while (!l->ended)
        turn(l);
    drain(l);
    finish(l);
    fl_monitor_send_rest(l);
    if (l->begun && !l->first_stayed && l->m.cleanup != NULL) {
        for (int i = 0; i < FL_MONITOR_CLIENTS; i++)
            close_one(&l->clients[i].fd);
        execve(l->m.cleanup[0], (char *const *)l->m.cleanup, l->m.environment);
    }
    _exit(0);
}

/* ---- the beginning ---- */

static const char *copied(struct fl_monitor_life *l, const char *text)
{
    size_t size = strlen(text) + 1;
    char *at = l->heap + l->heap_used;

    memcpy(at, text, size);
    l->heap_used += size;
    return at;
}

static size_t size_of(const char *const *texts)
{
    size_t size = sizeof(char *);

    for (; texts != NULL && *texts != NULL; texts++)
        size += sizeof(char *) + strlen(*texts) + 1 + sizeof(char *);
    return size + sizeof(char *);
}

static const char *const *copy(struct fl_monitor_life *l, const char *const *texts)
{
    size_t count = 0;
    const char **all;

    if (texts == NULL)
        return NULL;
    while (texts[count] != NULL)
        count++;
    l->heap_used = (l->heap_used + sizeof(char *) - 1) & ~(sizeof(char *) - 1);
    all = (const char **)(void *)(l->heap + l->heap_used);
    l->heap_used += (count + 1) * sizeof(char *);
    for (size_t i = 0; i < count; i++)
        all[i] = copied(l, texts[i]);
    all[count] = NULL;
    return all;
}

static struct fl_monitor_life *new_life(const struct fl_monitor *m)
{
    const char *const *environment = (const char *const *)m->environment;
    size_t size = sizeof(struct fl_monitor_life) + size_of(m->cgroups) + size_of(m->cleanup) + size_of(environment);
    struct fl_monitor_life *l =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); /* is not given back */

    if (l == MAP_FAILED)
        return NULL;
    l->m = *m;
    l->m.cgroups = copy(l, m->cgroups);
    l->m.cleanup = copy(l, m->cleanup);
    l->m.environment = (char *const *)copy(l, environment);
    l->status = 128 + SIGKILL;
    l->input_from = l->child_fd = -1;
    for (int i = 0; i < FL_MONITOR_CLIENTS; i++)
        l->clients[i].fd = -1;
    l->clients[0].fd = m->client;
    l->clients[0].wants = m->client >= 0;
    return l;
}

static void keep_own_descriptors(const struct fl_monitor_life *l)
{
    int kept[] = {l->m.dir, l->m.lock,     l->m.listener, l->m.client, l->m.out,  l->m.err,  l->m.in,
                  l->m.terminal, l->m.master, l->m.news, l->m.life, l->m.oom, l->report, l->ready};

    fl_run_close_others(kept, sizeof(kept) / sizeof(*kept));
}

static void ignore_signals(void)
{
    struct sigaction ignored = {.sa_handler = SIG_IGN};
    sigset_t none;

    fl_run_reset_signals();
    sigaction(SIGPIPE, &ignored, NULL);
    sigaction(SIGHUP, &ignored, NULL);
    sigaction(SIGINT, &ignored, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void set_blocking(int fd, bool blocking)
{
    if (fd >= 0)
        fcntl(fd, F_SETFL, (fcntl(fd, F_GETFL) & ~O_NONBLOCK) | (blocking ? 0 : O_NONBLOCK));
}

static void become_monitor(const struct fl_run *given, const struct fl_monitor *m)
{
    struct fl_monitor_life *l = new_life(m);
    struct fl_run run = *given;
    int report[2], ready[2];

    if (l == NULL || pipe2(report, O_CLOEXEC) < 0 || pipe2(ready, O_CLOEXEC) < 0)
        _exit(1);
    for (int fd = 0; fd < 3; fd++) /* whoever started it may wait for the end of its own output */
        close(fd);
    (void)!(open("/dev/null", O_RDWR) == 0 && dup(0) == 1 && dup(0) == 2);
    run.report = report[1];
    run.ready = ready[1];
    l->whole_tree = run.whole_tree;
    if (l->whole_tree)
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    l->keeper = fl_run_fork(0);
    if (l->keeper == 0)
        fl_run_live_as_keeper(&run);
    if (l->keeper < 0) {
        tell_caller(l, FL_RUN_KEEPER, (int)run.keeper_count, errno);
        _exit(1);
    }
    l->report = report[0];
    l->ready = ready[0];
    keep_own_descriptors(l);
    ignore_signals();
    prctl(PR_SET_NAME, "fastlayer-mon", 0, 0, 0);
    set_blocking(l->report, false);
    set_blocking(l->m.out, false);
    set_blocking(l->m.err, false);
    set_blocking(l->m.in, false);
    set_blocking(l->m.master, false);
    set_size(l);
    fl_monitor_log_open(&l->log, l->m.dir, l->m.log_size, l->m.log_files);
    live(l);
}

int fl_monitor_start(const struct fl_run *run, const struct fl_monitor *monitor, struct fl_error *err)
{
    sigset_t all, before;
    pid_t pid;
    int how;

    sigfillset(&all); /* no handler of the caller's runs in the new process */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid = fl_run_fork(0);
    if (pid == 0) {
        pid = fl_run_fork(0);
        if (pid == 0) {
            setsid();
            become_monitor(run, monitor);
        }
        _exit(pid < 0 ? 1 : 0);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        return fl_error_os(err, errno, "fork", NULL, 0);
    while (waitpid(pid, &how, 0) < 0 && errno == EINTR)
        ;
    return 0;
}
