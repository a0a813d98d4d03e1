#include "fl_task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fl_task *fl_task_new(const char *dir, const char *name, struct fl_error *err)
{
    size_t dir_len = strlen(dir), name_len = strlen(name);
    struct fl_task *t = malloc(sizeof(*t) + dir_len + name_len + 2);

    if (t == NULL) {
        fl_error_memory(err);
        return NULL;
    }
    sprintf(t->path, "%s%s%s", dir, dir_len != 0 && name_len != 0 ? "/" : "", name);
    return t;
}

void fl_task_free(struct fl_task *t)
{
    while (t != NULL) {
        struct fl_task *next = t->next;

        free(t);
        t = next;
    }
}

static size_t depth_of(const char *path)
{
    size_t depth = *path != '\0';

    for (; *path != '\0'; path++)
        depth += *path == '/';
    return depth;
}

static int reserve(struct fl_tasks_by_depth *l, size_t depths, struct fl_error *err)
{
    struct fl_task **lists = realloc(l->lists, depths * sizeof(*lists));

    if (lists == NULL)
        return fl_error_memory(err);
    memset(lists + l->depths, 0, (depths - l->depths) * sizeof(*lists));
    l->lists = lists;
    l->depths = depths;
    return 0;
}

int fl_tasks_push(struct fl_tasks_by_depth *l, struct fl_task *t, struct fl_error *err)
{
    size_t depth = depth_of(t->path);

    if (depth >= l->depths && reserve(l, depth + 16, err) < 0)
        return -1;
    t->next = l->lists[depth];
    l->lists[depth] = t;
    return 0;
}

struct fl_task *fl_tasks_pop(struct fl_tasks_by_depth *l)
{
    struct fl_task *t;

    while (l->depths != 0 && l->lists[l->depths - 1] == NULL)
        l->depths--;
    if (l->depths == 0)
        return NULL;
    t = l->lists[l->depths - 1];
    l->lists[l->depths - 1] = t->next;
    return t;
}

void fl_tasks_free(struct fl_tasks_by_depth *l)
{
    for (size_t i = 0; i < l->depths; i++)
        fl_task_free(l->lists[i]);
    free(l->lists);
    *l = (struct fl_tasks_by_depth){0};
}
