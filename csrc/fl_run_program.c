/* Which file the program is, and executing it.
 *
 * /proc/self/exe is still the caller's own program here, a file of the host that the root must not get hold of
 * (CVE-2019-5736). Paths that lead to such a magic link are refused. That look comes before the execve, and where other
 * programs run in the root already they can change the path between the two: there (`apart`) the path is walked here,
 * link by link as their texts say, and what is executed is a name in an open directory, which must not be a link.
 */
#include "fl_run_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fl_buf.h"
#include "fl_sys.h"

#define PATHS_MAX 64 /* of PATH no more directories are searched */
#define INTERPRETERS_MAX 5 /* the kernel follows four */
#define LINKS_MAX 40
#define PASSED (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* ---- magic links ---- */

/* Does the path go through one? Where there is no openat2 nothing is found. */
static bool is_magic(const char *path)
{
    int fd = fl_sys_openat2(AT_FDCWD, path, O_PATH | O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS);

    if (fd < 0)
        return errno == ELOOP;
    close(fd);
    return false;
}

/* The first line of a script (binfmt_script). */
struct script {
    char line[256];
    char *interpreter, *argument; /* in it; NULL: there is none                          */
};

/* False when it is no script. */
static bool read_script(int dir, const char *path, int flags, struct script *ret)
{
    int fd = openat(dir, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | flags);
    ssize_t length = fd < 0 ? -1 : read(fd, ret->line, sizeof(ret->line) - 1);
    char *at, *end;

    if (fd >= 0)
        close(fd);
    if (length < 3 || ret->line[0] != '#' || ret->line[1] != '!')
        return false;
    ret->line[length] = '\0';
    end = ret->line + strcspn(ret->line, "\n");
    while (end > ret->line && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *end = '\0';
    ret->interpreter = ret->line + 2 + strspn(ret->line + 2, " \t");
    at = ret->interpreter + strcspn(ret->interpreter, " \t");
    ret->argument = *at == '\0' ? NULL : at + strspn(at, " \t");
    *at = '\0';
    return *ret->interpreter != '\0';
}

static bool leads_to_magic(const char *path)
{
    struct script scripts[2]; /* what it is called in the one, while the other is read */

    for (int depth = 0; depth <= INTERPRETERS_MAX; depth++) {
        if (is_magic(path))
            return true;
        if (!read_script(AT_FDCWD, path, 0, &scripts[depth % 2]))
            return false;
        path = scripts[depth % 2].interpreter;
    }
    return false;
}

uint64_t fl_run_find_magic(const struct fl_run_program *p)
{
    uint64_t found = 0;

    for (int i = 0; i < PATHS_MAX && p->paths[i] != NULL; i++)
        found |= (uint64_t)leads_to_magic(p->paths[i]) << i;
    return found;
}

/* ---- walking ---- */

struct walk {
    int at;              /* ours                                                        */
    char rest[2 * PATH_MAX];
    int links;
};

static int failed(int errnum)
{
    errno = errnum;
    return -1;
}

static int enter(struct walk *w, const char *name, int flags)
{
    int fd = openat(w->at, name, PASSED & ~flags);

    if (fd < 0)
        return -1;
    if (w->at >= 0)
        close(w->at);
    w->at = fd;
    return 0;
}

/* The first component of what is left; `rest` is what comes after it. */
static int cut(struct walk *w, char *ret_name)
{
    size_t start = strspn(w->rest, "/"), length = strcspn(w->rest + start, "/");

    if (length > NAME_MAX)
        return failed(ENAMETOOLONG);
    memcpy(ret_name, w->rest + start, length);
    ret_name[length] = '\0';
    memmove(w->rest, w->rest + start + length, strlen(w->rest + start + length) + 1);
    return (int)length;
}

static int follow(struct walk *w, const char *text, size_t length)
{
    size_t rest = strlen(w->rest);

    if (++w->links > LINKS_MAX)
        return failed(ELOOP);
    if (length + rest + 1 > sizeof(w->rest))
        return failed(ENAMETOOLONG);
    memmove(w->rest + length, w->rest, rest + 1);
    memcpy(w->rest, text, length);
    return text[0] == '/' ? enter(w, "/", O_NOFOLLOW) : 0;
}

/* The last component is left in ret_name: it was no link. */
static int walk_on(struct walk *w, char *ret_name)
{
    char text[PATH_MAX];
    ssize_t length;

    for (;;) {
        int r = cut(w, ret_name);

        if (r <= 0)
            return r < 0 ? -1 : failed(EACCES); /* it ends with a slash */
        length = readlinkat(w->at, ret_name, text, sizeof(text));
        if (length >= 0)
            r = length == 0 || length == sizeof(text) ? failed(ENAMETOOLONG) : follow(w, text, (size_t)length);
        else if (w->rest[0] == '\0')
            return 0;
        else
            r = enter(w, ret_name, 0);
        if (r < 0)
            return -1;
    }
}

/* An open directory and the name in it that the path leads to. */
static int find(const char *path, char *ret_name)
{
    struct walk w = {.at = -1};

    if (strlen(path) >= PATH_MAX)
        return failed(ENAMETOOLONG);
    memcpy(w.rest, path, strlen(path) + 1);
    w.at = open(path[0] == '/' ? "/" : ".", PASSED);
    if (w.at < 0 || walk_on(&w, ret_name) == 0)
        return w.at;
    close(w.at);
    return -1;
}

/* ---- executing ---- */

static void execute_at(int dir, const char *name, char *const *argv, char *const *envp)
{
    struct stat found;

    syscall(SYS_execveat, dir, name, argv, envp, AT_SYMLINK_NOFOLLOW);
    if (errno == ELOOP)
        errno = EACCES; /* it has become a link meanwhile */
    if (errno != ENOENT || fstatat(dir, name, &found, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    /* An interpreter of binfmt_misc is given the name, by way of the directory. */
    fcntl(dir, F_SETFD, 0);
    syscall(SYS_execveat, dir, name, argv, envp, AT_SYMLINK_NOFOLLOW);
    fcntl(dir, F_SETFD, FD_CLOEXEC);
}

/* What the program is given, with room for what the interpreters of scripts are given before it. */
static char **copy_arguments(char *const *argv)
{
    size_t count = 0, room = 2 * (INTERPRETERS_MAX + 1);
    char **all;

    while (argv[count] != NULL)
        count++;
    all = mmap(NULL, (room + count + 1) * sizeof(*all), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    memcpy(all + room, argv, (count + 1) * sizeof(*all));
    return all + room;
}

/* binfmt_script, by names in directories: INTERPRETER [ARGUMENT] PATH, and what was given but the first. */
static void execute_apart(const char *path, const struct fl_run_program *p)
{
    struct script scripts[INTERPRETERS_MAX + 1];
    char name[NAME_MAX + 1], **argv = copy_arguments(p->argv);

    for (int depth = 0; argv != NULL && depth <= INTERPRETERS_MAX; depth++) {
        struct script *script = &scripts[depth];
        cleanup_fd int dir = find(path, name);

        if (dir < 0)
            return;
        if (!read_script(dir, name, O_NOFOLLOW, script)) {
            execute_at(dir, name, argv, p->envp);
            return;
        }
        if (faccessat(dir, name, X_OK, 0) < 0)
            return;
        argv[0] = (char *)path;
        if (script->argument != NULL)
            *--argv = script->argument;
        *--argv = script->interpreter;
        path = script->interpreter;
    }
    errno = argv == NULL ? ENOMEM : ELOOP;
}

/* As execvp(3) goes on: what may not be executed is remembered, what is not there is not. */
int fl_run_execute(const struct fl_run_program *p, uint64_t magic)
{
    int worst = ENOENT;

    for (int i = 0; i < PATHS_MAX && p->paths[i] != NULL; i++) {
        if (magic >> i & 1)
            errno = EACCES;
        else if (p->apart)
            execute_apart(p->paths[i], p);
        else
            execve(p->paths[i], p->argv, p->envp);
        if (errno == EACCES || errno == EPERM)
            worst = EACCES;
        else if (errno != ENOENT && errno != ENOTDIR)
            return errno;
    }
    return worst;
}
