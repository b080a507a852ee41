/* Licensed under the Apache License, Version 2.0. Copyright fcgid.stack maintainers. */

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ap_mpm.h"
#include "apr_strings.h"
#include "fcgid_queue.h"

#pragma GCC diagnostic error "-Wall"
#pragma GCC diagnostic error "-Wextra"

/* A waiting request asks for a new process after MIN_SPAWN_RETRY, then at doubled intervals of up
 * to MAX_SPAWN_RETRY.
 */
#define MIN_SPAWN_RETRY apr_time_from_msec(10)
#define MAX_SPAWN_RETRY apr_time_from_sec(1)

/* How often queue_repair() looks for httpd children that have died. */
#define REPAIR_INTERVAL apr_time_from_sec(1)

/* A process is fast when its requests take less than FAST_AVERAGE on average, none took longer than
 * SLOW_REQUEST in the last SLOW_COOLDOWN, and the current one has not taken longer than STALL_TIME
 * so far. Only a fast process gets a backlog, of up to MAX_BACKLOG requests including the current
 * one. A new process counts as slow until its average says otherwise.
 */
#define FAST_AVERAGE apr_time_from_msec(1)
#define SLOW_REQUEST apr_time_from_msec(50)
#define SLOW_COOLDOWN apr_time_from_sec(5)
#define STALL_TIME apr_time_from_msec(5)
#define MAX_BACKLOG 12

/* Waiting requests that a finished request assigns to its process: the next one and a backlog. */
#define MAX_HANDOVERS 4

/* The state of one request in the queue. The fields after `wakeup` identify the process class, as
 * those of fcgid_procnode and fcgid_command do. Index 0 means none.
 */
typedef struct {
    int next;                   /* the next slot in the queue */
    pid_t pid;                  /* the httpd child of the request; 0: the slot is free */
    int node;                   /* the process assigned to the request; 0: it waits */
    apr_time_t start_time;      /* of that process: its node may be reused for another one */
    int ticket;                 /* how many requests were assigned to that process before */
    int resendable;             /* GET or HEAD: may be sent again to another process */
    int requesting_spawn;       /* the request is asking the process manager for a process */
    sem_t wakeup;               /* posted when a process is assigned, or one may be asked for */
    apr_ino_t inode;
    apr_dev_t deviceid;
    int vhost_id;
    uid_t uid;
    gid_t gid;
    char cmdline[FCGID_CMDLINE_MAX];
} slot_t;

typedef struct {
    int first;
    int last;
    int hint;                   /* where to start looking for a free slot */
    int size;
    slot_t slots[1];            /* 1 to `size` */
} queue_t;

#define fcgid_max(a, b) ((a) > (b) ? (a) : (b))

#define SAME_CLASS(a, b) \
    ((a)->inode == (b)->inode && (a)->deviceid == (b)->deviceid \
     && (a)->vhost_id == (b)->vhost_id && (a)->uid == (b)->uid && (a)->gid == (b)->gid \
     && !strcmp((a)->cmdline, (b)->cmdline))

static queue_t *queue;
static pid_t own_pid;           /* this httpd child, or the process manager */
static int cores;

static fcgid_procnode *node_at(int index)
{
    return proctable_get_table_array() + index;
}

static int index_of(const fcgid_procnode *node)
{
    return (int) (node - proctable_get_table_array());
}

static void push(fcgid_procnode *list, fcgid_procnode *node)
{
    node->next_index = list->next_index;
    list->next_index = index_of(node);
}

static void unlink_node(fcgid_procnode *list, const fcgid_procnode *node)
{
    while (list->next_index && list->next_index != index_of(node))
        list = node_at(list->next_index);
    if (list->next_index)
        list->next_index = node->next_index;
}

/* Move a process to the error list: the process manager ends it. */
static void retire(fcgid_procnode *list, fcgid_procnode *node)
{
    unlink_node(list, node);
    node->retiring = 1;
    push(proctable_get_error_list(), node);
}

/* Count the processes of a list that belong to the class of this slot, up to `limit`. */
static int count_in(const fcgid_procnode *list, const slot_t *slot, int limit)
{
    int count = 0;

    while (list->next_index && count < limit) {
        list = node_at(list->next_index);
        count += SAME_CLASS(list, slot);
    }
    return count;
}

/* A killed httpd child counts as alive until httpd has reaped it. */
static int is_alive(pid_t pid)
{
    return pid == own_pid || kill(pid, 0) == 0 || errno != ESRCH;
}

apr_size_t queue_shm_size(void)
{
    int daemons = 1, threads = 1;

    ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &daemons);
    ap_mpm_query(AP_MPMQ_HARD_LIMIT_THREADS, &threads);

    /* A slot for each thread of httpd, and as many again for the threads of mod_http2. */
    return sizeof(queue_t)
           + 2 * (apr_size_t) daemons * (apr_size_t) fcgid_max(threads, 1) * sizeof(slot_t);
}

void queue_init(void *shm)
{
    int index;

    queue = shm;
    cores = (int) sysconf(_SC_NPROCESSORS_ONLN);
    queue->size = (int) ((queue_shm_size() - sizeof(queue_t)) / sizeof(slot_t));
    for (index = 1; index <= queue->size; index++)
        sem_init(&queue->slots[index].wakeup, 1, 0);
}

void queue_child_init(void)
{
    own_pid = getpid();
}

static int find_free_slot(void)
{
    int tries;

    for (tries = 0; tries < queue->size; tries++) {
        queue->hint = queue->hint % queue->size + 1;
        if (!queue->slots[queue->hint].pid)
            return queue->hint;
    }
    return 0;
}

/* `last` may lag behind if a child died between the two stores of enqueue() or of dequeue(). */
static int find_last(void)
{
    int index = queue->last ? queue->last : queue->first;

    while (queue->slots[index].next)
        index = queue->slots[index].next;
    return index;
}

static void enqueue(int index)
{
    int last = find_last();

    queue->slots[index].next = 0;
    if (last)
        queue->slots[last].next = index;
    else
        queue->first = index;
    queue->last = index;
}

static void dequeue(int previous, int index)
{
    if (queue->last == index)
        queue->last = previous;
    if (previous)
        queue->slots[previous].next = queue->slots[index].next;
    else
        queue->first = queue->slots[index].next;
}

/* Whether the slot is in the queue; *previous is the one before it. */
static int find_queued(int wanted, int *previous)
{
    int index;

    *previous = 0;
    for (index = queue->first; index && index != wanted; index = queue->slots[index].next)
        *previous = index;
    return index;
}

static int allocate_slot(const request_rec *r, const fcgid_command *command)
{
    int index = find_free_slot();
    slot_t *slot = &queue->slots[index];

    if (!index)
        return 0;
    slot->node = 0;
    slot->requesting_spawn = 0;
    slot->resendable = r->method_number == M_GET;
    slot->inode = command->inode;
    slot->deviceid = command->deviceid;
    slot->vhost_id = command->vhost_id;
    slot->uid = command->uid;
    slot->gid = command->gid;
    apr_cpystrn(slot->cmdline, command->cmdline, sizeof(slot->cmdline));
    slot->pid = own_pid;
    return index;
}

/* The oldest request that waits for the class of this process. Drops those of dead children. */
static int find_waiting(const fcgid_procnode *node, int *previous)
{
    int index, next;

    *previous = 0;
    for (index = queue->first; index; index = next) {
        slot_t *slot = &queue->slots[index];

        next = slot->next;
        if (!SAME_CLASS(node, slot)) {
            *previous = index;
            continue;
        }
        if (is_alive(slot->pid))
            break;
        dequeue(*previous, index);
        slot->pid = 0;
    }
    return index;
}

static int is_fast(const fcgid_procnode *node, apr_time_t now)
{
    return node->average_time < FAST_AVERAGE && now - node->last_slow_time > SLOW_COOLDOWN
           && now - node->last_active_time < STALL_TIME
           && !node->cmdopts.max_requests_per_process;
}

/* Whether the request of this slot may be assigned to this process of its class: to one without a
 * request, or, if it is a GET or HEAD, to the backlog of a fast one. While there is a core for
 * another process, the request waits and asks for one instead.
 */
static int has_capacity(const fcgid_procnode *node, const slot_t *slot, apr_time_t now)
{
    int limit = fcgid_min(cores, node->cmdopts.max_class_process_count);

    return !node->load || (slot->resendable && node->load < MAX_BACKLOG && is_fast(node, now)
                           && count_in(proctable_get_busy_list(), slot, limit) == limit);
}

/* The process with the shortest backlog, of the first MAX_BACKLOG processes of the class. */
static fcgid_procnode *shortest_backlog(const slot_t *slot)
{
    apr_time_t now = apr_time_now();
    fcgid_procnode *node, *best = NULL;
    int index, examined = 0;

    for (index = proctable_get_busy_list()->next_index; index && examined < MAX_BACKLOG;
         index = node->next_index) {
        node = node_at(index);
        if (!SAME_CLASS(node, slot))
            continue;
        examined++;
        if ((!best || node->load < best->load) && has_capacity(node, slot, now))
            best = node;
    }
    return best;
}

static void assign(int index, fcgid_procnode *node)
{
    slot_t *slot = &queue->slots[index];

    slot->start_time = node->start_time;
    slot->ticket = node->assigned++;
    __atomic_store_n(&slot->node, index_of(node), __ATOMIC_RELEASE);
    if (!node->load++)
        node->last_active_time = apr_time_now();
}

/* Assign a process with capacity to the oldest waiting request. Returns the slot to wake, or 0. */
static int hand_over(fcgid_procnode *node)
{
    int previous, index;

    if (!(index = find_waiting(node, &previous))
        || !has_capacity(node, &queue->slots[index], apr_time_now()))
        return 0;
    dequeue(previous, index);
    assign(index, node);
    return index;
}

/* Called without the lock: the slot may have been reused by then, and its request waits again. */
static void wake(int index)
{
    if (index)
        sem_post(&queue->slots[index].wakeup);
}

static void wait_for_wakeup(slot_t *slot, apr_interval_time_t interval)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t) apr_time_sec(interval);
    until.tv_nsec += (long) apr_time_usec(interval) * 1000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    sem_clockwait(&slot->wakeup, CLOCK_MONOTONIC, &until);
}

/* Whether to ask for a new process: the class is below its limit, and no other request of the class
 * is asking at the moment.
 */
static int should_request_spawn(const slot_t *slot, const fcgid_command *command)
{
    int index, limit = command->cmdopts.max_class_process_count;

    for (index = queue->first; index; index = queue->slots[index].next) {
        if (queue->slots[index].requesting_spawn && SAME_CLASS(&queue->slots[index], slot))
            return 0;
    }
    return count_in(proctable_get_busy_list(), slot, limit) < limit;
}

static fcgid_procnode *take_idle(const fcgid_command *command)
{
    fcgid_procnode *previous, *node;

    for (previous = proctable_get_idle_list(); previous->next_index; previous = node) {
        node = node_at(previous->next_index);
        if (SAME_CLASS(node, command)) {
            previous->next_index = node->next_index;
            push(proctable_get_busy_list(), node);
            return node;
        }
    }
    return NULL;
}

/* A process for a new request, or NULL if it has to wait. */
static fcgid_procnode *choose_process(const fcgid_command *command, const slot_t *slot)
{
    fcgid_procnode *shortest, *idle;
    int index;

    for (index = queue->first; index; index = queue->slots[index].next) {
        if (SAME_CLASS(&queue->slots[index], slot))
            return NULL;
    }
    shortest = shortest_backlog(slot);
    /* More active processes than cores would only compete for the cores. */
    if (shortest && shortest->load == 1 && 2 * shortest->average_time < FAST_AVERAGE)
        return shortest;
    idle = take_idle(command);
    return idle ? idle : shortest;
}

fcgid_procnode *queue_acquire(request_rec *r, fcgid_command *command, apr_time_t deadline,
                              int *slot_index)
{
    apr_interval_time_t interval = 0;
    fcgid_procnode *node;
    slot_t *slot;
    int index, previous, requesting_spawn;

    proctable_lock(r);
    index = allocate_slot(r, command);
    slot = &queue->slots[index];
    if (!index || (node = choose_process(command, slot))) {
        if (index)
            assign(index, node);
        proctable_unlock(r);
        *slot_index = index;
        return index ? node : NULL;
    }
    enqueue(index);
    /* If no process of the class is active, ask for one at once. */
    if (count_in(proctable_get_busy_list(), slot, 1))
        interval = MIN_SPAWN_RETRY;
    proctable_unlock(r);
    *slot_index = index;

    for (;;) {
        if (interval) {
            wait_for_wakeup(slot, fcgid_min(interval, deadline - apr_time_now()));
            if ((index = __atomic_load_n(&slot->node, __ATOMIC_ACQUIRE)))
                return node_at(index);
        }
        proctable_lock(r);
        if (slot->node || apr_time_now() >= deadline || procmgr_has_died())
            break;
        /* A child that died in hand_over() may have taken this slot out of the queue. */
        if (!find_queued(*slot_index, &previous))
            enqueue(*slot_index);
        /* An idle process may be unassigned because the requests before this one died. */
        if ((node = take_idle(command))) {
            find_queued(*slot_index, &previous);
            dequeue(previous, *slot_index);
            assign(*slot_index, node);
            break;
        }
        requesting_spawn = slot->requesting_spawn = should_request_spawn(slot, command);
        proctable_unlock(r);

        if (requesting_spawn) {
            procmgr_send_spawn_cmd(command, r);
            proctable_lock(r);
            slot->requesting_spawn = 0;
            proctable_unlock(r);
        }
        interval = interval ? fcgid_min(2 * interval, MAX_SPAWN_RETRY) : MIN_SPAWN_RETRY;
    }

    if (!(index = slot->node)) {
        if (find_queued(*slot_index, &previous))
            dequeue(previous, *slot_index);
        slot->pid = 0;
        *slot_index = 0;
    }
    proctable_unlock(r);
    return index ? node_at(index) : NULL;
}

/* Update the statistics of a process after a request. */
static void record_duration(fcgid_procnode *node, apr_time_t now)
{
    apr_interval_time_t duration = now - node->last_active_time;

    node->average_time += (duration - node->average_time) / 8;
    if (duration > SLOW_REQUEST)
        node->last_slow_time = now;
    node->last_active_time = now;
}

int queue_is_current(const fcgid_procnode *node, int slot_index)
{
    return node->start_time == queue->slots[slot_index].start_time;
}

void queue_release(request_rec *r, fcgid_procnode *node, int *slot_index, int error)
{
    int woken[MAX_HANDOVERS] = { 0 };
    slot_t *slot = &queue->slots[*slot_index];
    int i, previous;

    proctable_lock(r);
    if (queue_is_current(node, *slot_index)) {
        int backlogged = slot->ticket > node->completed;

        node->completed++;
        if (node->load > 0)
            node->load--;
        /* An error of a request in the backlog belongs to the requests before it. */
        if (error && !backlogged && !node->retiring) {
            retire(proctable_get_busy_list(), node);
            /* One process less: wake the oldest request, which asks for a new one. */
            woken[0] = find_waiting(node, &previous);
        }
        else if (!error && !node->retiring) {
            record_duration(node, apr_time_now());
            for (i = 0; i < MAX_HANDOVERS && (woken[i] = hand_over(node)); i++)
                continue;
            if (!node->load) {
                unlink_node(proctable_get_busy_list(), node);
                /* From here on queue_repair() must not attribute the process to this slot. */
                slot->start_time = 0;
                __atomic_signal_fence(__ATOMIC_SEQ_CST);
                push(proctable_get_idle_list(), node);
            }
        }
    }
    slot->pid = 0;
    *slot_index = 0;
    proctable_unlock(r);
    for (i = 0; i < MAX_HANDOVERS; i++)
        wake(woken[i]);
}

void queue_init_process(fcgid_procnode *node)
{
    node->load = 0;
    node->assigned = 0;
    node->completed = 0;
    node->retiring = 0;
    node->average_time = SLOW_REQUEST;
    node->last_slow_time = 0;
}

int queue_length(void)
{
    int index, length = 0;

    for (index = queue->first; index; index = queue->slots[index].next)
        length++;
    return length;
}

int queue_has_waiter(server_rec *s, const fcgid_command *command)
{
    int index;

    proctable_pm_lock(s);
    for (index = queue->first; index; index = queue->slots[index].next) {
        if (SAME_CLASS(&queue->slots[index], command))
            break;
    }
    proctable_pm_unlock(s);
    return index;
}

void queue_offer(server_rec *s, fcgid_procnode *node)
{
    int woken;

    proctable_pm_lock(s);
    woken = hand_over(node);
    push(node->load ? proctable_get_busy_list() : proctable_get_idle_list(), node);
    proctable_pm_unlock(s);
    wake(woken);
}

void queue_retire_idle(server_rec *s, int (*should_retire)(const fcgid_procnode *))
{
    fcgid_procnode *previous, *node;

    proctable_pm_lock(s);
    for (previous = proctable_get_idle_list(); previous->next_index;) {
        node = node_at(previous->next_index);
        if (!should_retire(node)) {
            previous = node;
            continue;
        }
        node->diewhy = FCGID_DIE_SHUTDOWN;
        retire(previous, node);
    }
    proctable_pm_unlock(s);
}

int queue_repair(server_rec *s)
{
    static apr_time_t last;
    char listed[FCGID_PROC_TABLE_SIZE] = { 0 };
    fcgid_procnode *const lists[] = {
        proctable_get_free_list(), proctable_get_idle_list(), proctable_get_busy_list(),
        proctable_get_error_list()
    };
    fcgid_procnode *node;
    int index, previous, found = 0;
    size_t i;

    if (apr_time_now() - last < REPAIR_INTERVAL)
        return 0;
    last = apr_time_now();

    proctable_pm_lock(s);

    /* Release what dead children held. A process without other requests is ended, since nobody
     * knows when it is done with the abandoned one. A process with other requests keeps them.
     */
    for (index = 1; index <= queue->size; index++) {
        slot_t *slot = &queue->slots[index];

        if (!slot->pid || is_alive(slot->pid))
            continue;
        node = node_at(slot->node);
        if (slot->node && node->start_time == slot->start_time && !node->retiring) {
            if (node->load > 1) {
                node->load--;
                node->completed++;
            }
            else {
                node->diewhy = FCGID_DIE_COMM_ERROR;
                retire(proctable_get_busy_list(), node);
                found++;
            }
        }
        else if (!slot->node && find_queued(index, &previous))
            dequeue(previous, index);
        slot->pid = 0;
    }

    /* Retire processes that a dead child had taken out of one list and not put into another. */
    for (i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        for (node = lists[i]; node->next_index; node = node_at(node->next_index))
            listed[node->next_index] = 1;
    }
    for (i = 0; i < proctable_get_table_size(); i++) {
        node = node_at((int) i);
        if (node->proc_pool && !listed[i]) {
            node->diewhy = FCGID_DIE_COMM_ERROR;
            retire(proctable_get_busy_list(), node);
            found++;
        }
    }
    proctable_pm_unlock(s);
    return found;
}
