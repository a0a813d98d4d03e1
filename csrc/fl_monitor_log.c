/* The log: a JSON object a line, {"log":"text\n","stream":"stdout","time":"2024-01-01T00:00:00.000000000Z"}. */
#include "fl_monitor_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAME "log.json"

int64_t fl_monitor_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

char *fl_monitor_number(char *at, int64_t value, char after)
{
    char digits[20];
    int count = 0;

    if (value < 0) {
        *at++ = '-';
        value = -value;
    }
    do
        digits[count++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (count > 0)
        *at++ = digits[--count];
    *at++ = after;
    return at;
}

void fl_monitor_note(int dir, const char *name, int64_t one, int64_t two, int64_t three)
{
    char text[FL_MONITOR_NOTE], place[16] = ".", *end = fl_monitor_number(text, one, ' ');
    int fd;

    memcpy(place + 1, name, strlen(name) + 1);
    fd = openat(dir, place, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    end = fl_monitor_number(end, two, ' ');
    end = fl_monitor_number(end, three, ' ');
    memset(end, ' ', (size_t)(text + sizeof(text) - end));
    text[sizeof(text) - 1] = '\n';
    if (fd < 0)
        return;
    if (write(fd, text, sizeof(text)) == (ssize_t)sizeof(text))
        renameat(dir, place, dir, name);
    close(fd);
}

/* ---- files ---- */

static void name_of(int number, char *ret)
{
    memcpy(ret, NAME ".", sizeof(NAME ".") - 1);
    fl_monitor_number(ret + sizeof(NAME ".") - 1, number, '\0');
}

static void begin(struct fl_monitor_log *log, int flags)
{
    struct stat found;

    log->fd = openat(log->dir, NAME, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC | flags, 0640);
    log->size = log->fd >= 0 && fstat(log->fd, &found) == 0 ? (uint64_t)found.st_size : 0;
}

static void rotate(struct fl_monitor_log *log)
{
    char from[32], to[32];

    close(log->fd);
    for (int number = log->files - 1; number > 0; number--) {
        name_of(number, to);
        if (number == 1)
            memcpy(from, NAME, sizeof(NAME));
        else
            name_of(number - 1, from);
        renameat(log->dir, from, log->dir, to);
    }
    begin(log, O_TRUNC);
}

void fl_monitor_log_open(struct fl_monitor_log *log, int dir, uint64_t limit, int files)
{
    log->dir = dir;
    log->fd = -1;
    log->limit = limit;
    log->files = dir >= 0 ? files : 0;
    if (log->files > 0)
        begin(log, 0);
}

/* ---- text ---- */

/* Bytes of the UTF-8 sequence at `at`; 0 when it is none (RFC 3629). */
static size_t sequence(const unsigned char *at, size_t left)
{
    size_t length = at[0] < 0x80 ? 1 : at[0] < 0xC2 ? 0 : at[0] < 0xE0 ? 2 : at[0] < 0xF0 ? 3 : at[0] < 0xF5 ? 4 : 0;

    if (length == 0 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    if ((at[0] == 0xE0 && at[1] < 0xA0) || (at[0] == 0xED && at[1] > 0x9F) || (at[0] == 0xF0 && at[1] < 0x90) ||
        (at[0] == 0xF4 && at[1] > 0x8F))
        return 0;
    return length;
}

static char *put(char *at, const char *text)
{
    size_t length = strlen(text);

    memcpy(at, text, length);
    return at + length;
}

static char *put_escaped(char *at, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    const char *short_ = c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n" : c == '\r' ? "\\r" : NULL;

    if (c == '\t')
        short_ = "\\t";
    if (short_ != NULL)
        return put(at, short_);
    if (c >= ' ' && c != '<' && c != '>' && c != '&') {
        *at = (char)c;
        return at + 1;
    }
    at = put(at, "\\u00");
    *at++ = hex[c >> 4];
    *at++ = hex[c & 15];
    return at;
}

/* What is no UTF-8 becomes U+FFFD, as Go's encoder does it. */
static char *put_text(char *at, const unsigned char *data, size_t size)
{
    for (size_t i = 0, length; i < size; i += length) {
        length = sequence(data + i, size - i);
        if (length == 1) {
            at = put_escaped(at, data[i]);
        } else if (length == 0) {
            at = put(at, "\\ufffd");
            length = 1;
        } else {
            memcpy(at, data + i, length);
            at += length;
        }
    }
    return at;
}

static char *put_digits(char *at, int64_t value, int count, char after)
{
    for (int i = count - 1; i >= 0; i--, value /= 10)
        at[i] = (char)('0' + value % 10);
    at[count] = after;
    return at + count + 1;
}

/* RFC 3339, from days since 1970 (the civil calendar, years of 400 begin in March). libc's would take locks. */
static char *put_time(char *at, int64_t ns)
{
    int64_t seconds = ns / 1000000000, days = seconds / 86400 + 719468, era = days / 146097, of_era = days % 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100), month = (5 * of_year + 2) / 153;
    int64_t day = of_year - (153 * month + 2) / 5 + 1, of_day = seconds % 86400;

    month = month < 10 ? month + 3 : month - 9;
    at = put_digits(at, year + era * 400 + (month <= 2), 4, '-');
    at = put_digits(at, month, 2, '-');
    at = put_digits(at, day, 2, 'T');
    at = put_digits(at, of_day / 3600, 2, ':');
    at = put_digits(at, of_day / 60 % 60, 2, ':');
    at = put_digits(at, of_day % 60, 2, '.');
    return put_digits(at, ns % 1000000000, 9, 'Z');
}

/* ---- lines ---- */

/* A line that the disk has no room for is left out as a whole, so that those after it can be read. */
static void put_in_file(struct fl_monitor_log *log, size_t size)
{
    ssize_t done;

    if (log->fd >= 0 && log->limit != 0 && log->size > 0 && log->size + size > log->limit)
        rotate(log);
    if (log->fd < 0)
        begin(log, 0); /* there was no room for a new file */
    done = log->fd < 0 ? -1 : write(log->fd, log->text, size);
    if (done > 0 && (size_t)done < size && ftruncate(log->fd, (off_t)log->size) == 0)
        done = 0;
    if (done > 0)
        log->size += (uint64_t)done;
}

static void write_line(struct fl_monitor_log *log, int stream)
{
    struct fl_monitor_line *line = &log->lines[stream];
    char *at = put(log->text, "{\"log\":\"");

    at = put_text(at, (const unsigned char *)line->data, line->length);
    at = put(at, stream == 0 ? "\",\"stream\":\"stdout\",\"time\":\"" : "\",\"stream\":\"stderr\",\"time\":\"");
    at = put(put_time(at, fl_monitor_now()), "\"}\n");
    line->length = 0;
    put_in_file(log, (size_t)(at - log->text));
}

void fl_monitor_log_add(struct fl_monitor_log *log, int stream, const char *data, size_t size)
{
    struct fl_monitor_line *line = &log->lines[stream];

    while (log->files > 0 && size > 0) {
        const char *end = memchr(data, '\n', size);
        size_t part = end != NULL ? (size_t)(end - data) + 1 : size;

        if (part > FL_MONITOR_LINE - line->length)
            part = FL_MONITOR_LINE - line->length;
        memcpy(line->data + line->length, data, part);
        line->length += part;
        data += part;
        size -= part;
        if (line->length == FL_MONITOR_LINE || line->data[line->length - 1] == '\n')
            write_line(log, stream);
    }
}

void fl_monitor_log_end(struct fl_monitor_log *log)
{
    for (int stream = 0; stream < 2; stream++)
        if (log->files > 0 && log->lines[stream].length > 0)
            write_line(log, stream);
    if (log->fd >= 0)
        close(log->fd);
}
