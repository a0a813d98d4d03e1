/* What a process that only waits gives back of the memory it was forked with. */
#include "fl_run_private.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SMALLEST (128ul << 10) /* bytes: what is less stays, libc's own data among it */
#define LINE_MAX_ 4352

struct reader {
    int fd;
    size_t next, end;
    char data[4096];
};

static int read_byte(struct reader *r)
{
    if (r->next == r->end) {
        ssize_t got = read(r->fd, r->data, sizeof(r->data));

        if (got <= 0)
            return -1;
        r->next = 0;
        r->end = (size_t)got;
    }
    return (unsigned char)r->data[r->next++];
}

/* False at the end of the file; what does not fit is dropped. */
static bool read_line(struct reader *r, char *line)
{
    size_t length = 0;
    int byte;

    while ((byte = read_byte(r)) >= 0 && byte != '\n')
        if (length < LINE_MAX_ - 1)
            line[length++] = (char)byte;
    line[length] = '\0';
    return length != 0;
}

static unsigned long hex(const char **text)
{
    unsigned long value = 0;

    for (;; (*text)++) {
        char c = **text;

        if (c >= '0' && c <= '9')
            value = value << 4 | (unsigned long)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (unsigned long)(c - 'a' + 10);
        else
            return value;
    }
}

/* proc_pid_maps(5): "START-END rw-p OFFSET DEV INODE  NAME". Private, writable, of no file; the heap is such. */
static bool is_spare(const char *line, unsigned long *ret_start, unsigned long *ret_end)
{
    const char *at = line;
    int fields = 0;

    *ret_start = hex(&at);
    if (*at++ != '-')
        return false;
    *ret_end = hex(&at);
    if (at[0] != ' ' || at[1] != 'r' || at[2] != 'w' || at[4] != 'p')
        return false;
    for (; fields < 4; fields++) { /* rights, offset, device, inode */
        while (*at == ' ')
            at++;
        while (*at != ' ' && *at != '\0')
            at++;
    }
    while (*at == ' ')
        at++;
    return *at == '\0' || (at[0] == '[' && (at[1] == 'h' || at[1] == 'a')); /* [heap], [anon: ...], not [stack] */
}

int fl_run_open_maps(void)
{
    return open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
}

void fl_run_give_back(int maps)
{
    struct reader reader = {.fd = maps};
    unsigned long here = (unsigned long)&reader, own = (unsigned long)&errno, start, end;
    char line[LINE_MAX_];

    if (reader.fd < 0)
        return;
    while (read_line(&reader, line)) {
        if (!is_spare(line, &start, &end) || end - start < SMALLEST)
            continue;
        if ((here >= start && here < end) || (own >= start && own < end))
            continue;
        madvise((void *)start, end - start, MADV_DONTNEED);
    }
    close(reader.fd);
}
