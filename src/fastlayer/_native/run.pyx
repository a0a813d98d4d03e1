"""Running a program in a root file system (csrc/fl_run.h)."""

from fastlayer import errors as _errors
from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    fl_error, fl_monitor, fl_monitor_start, fl_run, fl_run_limit, fl_run_program, fl_run_start, fl_run_step, gid_t,
    sock_filter,
)
from libc.stdlib cimport calloc, free


cdef class _Memory:
    """Blocks that live as long as the call, and the bytes they point into."""

    cdef list kept
    cdef void *blocks[16]
    cdef int used

    def __cinit__(self):
        self.kept = []
        self.used = 0

    def __dealloc__(self):
        for i in range(self.used):
            free(self.blocks[i])

    cdef void *block(self, size_t count, size_t size) except NULL:
        cdef void *found = calloc(count + 1, size)
        if found == NULL or self.used == 16:
            free(found)
            raise MemoryError
        self.blocks[self.used] = found
        self.used += 1
        return found

    cdef const char *text(self, value) except? NULL:
        if value is None:
            return NULL
        if b"\0" in value:
            raise _errors.UsageError("an argument, variable or path of a program cannot contain a NUL byte")
        self.kept.append(value)
        return <const char *><bytes>value

    cdef const char **texts(self, values) except NULL:
        cdef const char **found = <const char **>self.block(len(values), sizeof(char *))
        for i, value in enumerate(values):
            found[i] = self.text(value)
        return found

    cdef fl_run_step *steps(self, values) except NULL:
        cdef fl_run_step *found = <fl_run_step *>self.block(len(values), sizeof(fl_run_step))
        for i, (op, slot, number, one, two, three) in enumerate(values):
            found[i].op = op
            found[i].slot = slot
            found[i].number = number
            found[i].one = self.text(one)
            found[i].two = self.text(two)
            found[i].three = self.text(three)
        return found


cdef int _fill(fl_run_program *p, program, _Memory memory) except -1:
    cdef gid_t *groups
    cdef fl_run_limit *limits
    cdef bytes code = program.filter

    p.paths = <const char *const *>memory.texts(program.paths)
    p.apart = program.apart
    p.argv = <char *const *>memory.texts(program.argv)
    p.envp = <char *const *>memory.texts(program.env)
    p.cwd = memory.text(program.cwd)
    p.uid = program.uid
    p.gid = program.gid
    p.group_count = -1
    if program.groups is not None:
        groups = <gid_t *>memory.block(len(program.groups), sizeof(gid_t))
        for i, group in enumerate(program.groups):
            groups[i] = group
        p.groups = groups
        p.group_count = len(program.groups)
    p.keep_caps = program.caps is None
    p.caps = program.caps or 0
    p.no_new_privs = program.no_new_privileges
    memory.kept.append(code)
    p.filter = <const sock_filter *><const char *>code
    p.filter_len = <unsigned short>(len(code) // sizeof(sock_filter))
    p.filter_flags = program.filter_flags
    limits = <fl_run_limit *>memory.block(len(program.limits), sizeof(fl_run_limit))
    for i, (resource, soft, hard) in enumerate(program.limits):
        limits[i].resource = resource
        limits[i].soft = soft & 0xFFFFFFFFFFFFFFFF
        limits[i].hard = hard & 0xFFFFFFFFFFFFFFFF
    p.limits = limits
    p.limit_count = len(program.limits)
    for i in range(3):
        p.stdio[i] = program.stdio[i]
    p.terminal = program.terminal
    return 0


cdef int _fill_run(fl_run *run, keeper, child, program, namespaces, slots, int life, _Memory memory) except -1:
    run.keeper = memory.steps(keeper)
    run.keeper_count = len(keeper)
    run.child = memory.steps(child)
    run.child_count = len(child)
    run.namespaces = namespaces
    run.whole_tree = False
    run.slots = <int *>memory.block(len(slots), sizeof(int))
    run.slot_count = len(slots)
    for i, fd in enumerate(slots):
        run.slots[i] = fd
    run.life = life
    run.report = -1
    run.ready = -1
    return _fill(&run.program, program, memory)


def start(keeper, child, program, *, namespaces, whole_tree, slots, int life, int report):
    """Starts the keeper and returns its pid."""
    cdef _Memory memory = _Memory()
    cdef fl_run run
    cdef fl_error err
    cdef int pid

    _fill_run(&run, keeper, child, program, namespaces, slots, life, memory)
    run.whole_tree = whole_tree
    run.report = report
    with nogil:
        pid = fl_run_start(&run, &err)
    if pid < 0:
        raise_error(&err)
    return pid


def watch(keeper, child, program, monitor, *, namespaces, whole_tree, slots, int life):
    """Starts a run with a monitor (csrc/fl_monitor.h) and returns when that has been forked."""
    cdef _Memory memory = _Memory()
    cdef fl_run run
    cdef fl_monitor m
    cdef fl_error err
    cdef int failed

    _fill_run(&run, keeper, child, program, namespaces, slots, life, memory)
    run.whole_tree = whole_tree
    m.dir, m.lock, m.listener, m.client = monitor.dir, monitor.lock, monitor.listener, monitor.client
    m.out, m.err, m.in_ = monitor.out, monitor.err, monitor.input
    m.terminal, m.master, m.rows, m.columns = monitor.terminal, monitor.master, monitor.rows, monitor.columns
    m.stdin_once, m.news, m.life = monitor.stdin_once, monitor.news, monitor.life
    m.log_size, m.log_files, m.oom = monitor.log_size, monitor.log_files, monitor.oom
    m.cgroups = <const char *const *>memory.texts(monitor.cgroups)
    m.cleanup = <const char *const *>memory.texts(monitor.cleanup) if monitor.cleanup else NULL
    m.environment = <char *const *>memory.texts(monitor.environment)
    with nogil:
        failed = fl_monitor_start(&run, &m, &err)
    if failed < 0:
        raise_error(&err)
