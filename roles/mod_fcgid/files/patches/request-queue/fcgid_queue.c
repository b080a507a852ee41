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

/* A request that waits asks for another process after 10 ms, then less and less often. */
#define FIRST_ASK apr_time_from_msec(10)
#define LAST_ASK apr_time_from_sec(1)

/* Taken back from the dead this often. */
#define REPAIR_INTERVAL apr_time_from_sec(1)

/* A process is quick when its requests take less than QUICK on average, none took longer than SLOW
 * in the last CALM, and the one at hand has not taken longer than DOUBT. At a quick process further
 * requests line up. A new process has yet to show that it is quick.
 */
#define QUICK apr_time_from_msec(1)
#define SLOW apr_time_from_msec(50)
#define CALM apr_time_from_sec(5)
#define DOUBT apr_time_from_msec(5)
#define LONGEST_LINE 12

/* Handed over at once by a request that is done: its own process, and room in the line. */
#define HANDED_AT_ONCE 4

/* What a request has of the queue from beginning to end. The fields after `call` name the process
 * class, as those of fcgid_procnode and fcgid_command do. Index 0 stands for none.
 */
typedef struct {
    int next;                   /* the place behind this one in the queue */
    pid_t pid;                  /* the httpd child of the request; 0: the place is free */
    int node;                   /* the process that the request has; 0: it waits */
    apr_time_t start_time;      /* of that process: a node may get another one */
    int turn;                   /* how many requests that process had been given before */
    int may_line_up;            /* the request changes nothing: it may have to be sent again */
    int asks;                   /* the request is asking the process manager */
    sem_t call;                 /* posted when there is a process, or reason to ask for one */
    apr_ino_t inode;
    apr_dev_t deviceid;
    int vhost_id;
    uid_t uid;
    gid_t gid;
    char cmdline[FCGID_CMDLINE_MAX];
} place_t;

typedef struct {
    int first;
    int last;
    int hint;                   /* places behind this one are probably free */
    int size;
    place_t places[1];          /* 1 to `size` */
} queue_t;

#define fcgid_max(a, b) ((a) > (b) ? (a) : (b))

#define SAME_CLASS(a, b) \
    ((a)->inode == (b)->inode && (a)->deviceid == (b)->deviceid \
     && (a)->vhost_id == (b)->vhost_id && (a)->uid == (b)->uid && (a)->gid == (b)->gid \
     && !strcmp((a)->cmdline, (b)->cmdline))

static queue_t *queue;
static pid_t self;              /* this httpd child, or the process manager */
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

/* Out of its list, to be ended by the process manager. */
static void give_up(fcgid_procnode *list, fcgid_procnode *node)
{
    unlink_node(list, node);
    node->ending = 1;
    push(proctable_get_error_list(), node);
}

/* The processes of a list that are of the class of this place, `most` at most. */
static int count_in(const fcgid_procnode *list, const place_t *place, int most)
{
    int count = 0;

    while (list->next_index && count < most) {
        list = node_at(list->next_index);
        count += SAME_CLASS(list, place);
    }
    return count;
}

/* A httpd child that was killed counts as alive until its parent has taken note. */
static int is_alive(pid_t pid)
{
    return pid == self || kill(pid, 0) == 0 || errno != ESRCH;
}

apr_size_t queue_shm_size(void)
{
    int daemons = 1, threads = 1;

    ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &daemons);
    ap_mpm_query(AP_MPMQ_HARD_LIMIT_THREADS, &threads);

    /* A place for each thread of httpd, and as many for those of mod_http2. */
    return sizeof(queue_t)
           + 2 * (apr_size_t) daemons * (apr_size_t) fcgid_max(threads, 1) * sizeof(place_t);
}

void queue_init(void *shm)
{
    int index;

    queue = shm;
    cores = (int) sysconf(_SC_NPROCESSORS_ONLN);
    queue->size = (int) ((queue_shm_size() - sizeof(queue_t)) / sizeof(place_t));
    for (index = 1; index <= queue->size; index++)
        sem_init(&queue->places[index].call, 1, 0);
}

void queue_child_init(void)
{
    self = getpid();
}

static int find_free_place(void)
{
    int tries;

    for (tries = 0; tries < queue->size; tries++) {
        queue->hint = queue->hint % queue->size + 1;
        if (!queue->places[queue->hint].pid)
            return queue->hint;
    }
    return 0;
}

/* `last` may lag behind if a child died between the two stores of enqueue() or of dequeue(). */
static int find_last(void)
{
    int index = queue->last ? queue->last : queue->first;

    while (queue->places[index].next)
        index = queue->places[index].next;
    return index;
}

static void enqueue(int index)
{
    int last = find_last();

    queue->places[index].next = 0;
    if (last)
        queue->places[last].next = index;
    else
        queue->first = index;
    queue->last = index;
}

static void dequeue(int previous, int index)
{
    if (queue->last == index)
        queue->last = previous;
    if (previous)
        queue->places[previous].next = queue->places[index].next;
    else
        queue->first = queue->places[index].next;
}

/* Whether the place is in the queue; *previous is the one before it. */
static int find_queued(int wanted, int *previous)
{
    int index;

    *previous = 0;
    for (index = queue->first; index && index != wanted; index = queue->places[index].next)
        *previous = index;
    return index;
}

static int take_place(const request_rec *r, const fcgid_command *command)
{
    int index = find_free_place();
    place_t *place = &queue->places[index];

    if (!index)
        return 0;
    place->node = 0;
    place->asks = 0;
    place->may_line_up = r->method_number == M_GET;
    place->inode = command->inode;
    place->deviceid = command->deviceid;
    place->vhost_id = command->vhost_id;
    place->uid = command->uid;
    place->gid = command->gid;
    apr_cpystrn(place->cmdline, command->cmdline, sizeof(place->cmdline));
    place->pid = self;
    return index;
}

/* The oldest request that waits for the class of this process and still lives. */
static int find_waiting(const fcgid_procnode *node, int *previous)
{
    int index, next;

    *previous = 0;
    for (index = queue->first; index; index = next) {
        place_t *place = &queue->places[index];

        next = place->next;
        if (!SAME_CLASS(node, place)) {
            *previous = index;
            continue;
        }
        if (is_alive(place->pid))
            break;
        dequeue(*previous, index);
        place->pid = 0;
    }
    return index;
}

static int is_quick(const fcgid_procnode *node, apr_time_t now)
{
    return node->usual_time < QUICK && now - node->slow_at > CALM
           && now - node->last_active_time < DOUBT
           && !node->cmdopts.max_requests_per_process;
}

/* Whether a request that has this place may go to a process of its class: to one without a request,
 * or, if it is a GET or HEAD, into the line of a quick one. As long as there is a core for another process, it is better
 * to wait, and to ask for one.
 */
static int has_room(const fcgid_procnode *node, const place_t *place, apr_time_t now)
{
    int enough = fcgid_min(cores, node->cmdopts.max_class_process_count);

    return !node->load || (place->may_line_up && node->load < LONGEST_LINE && is_quick(node, now)
                           && count_in(proctable_get_busy_list(), place, enough) == enough);
}

/* The process with the shortest line. Of many processes a few are looked at. */
static fcgid_procnode *shortest_line(const place_t *place)
{
    apr_time_t now = apr_time_now();
    fcgid_procnode *node, *best = NULL;
    int index, looked_at = 0;

    for (index = proctable_get_busy_list()->next_index; index && looked_at < LONGEST_LINE;
         index = node->next_index) {
        node = node_at(index);
        if (!SAME_CLASS(node, place))
            continue;
        looked_at++;
        if ((!best || node->load < best->load) && has_room(node, place, now))
            best = node;
    }
    return best;
}

static void assign(int index, fcgid_procnode *node)
{
    place_t *place = &queue->places[index];

    place->start_time = node->start_time;
    place->turn = node->given++;
    __atomic_store_n(&place->node, index_of(node), __ATOMIC_RELEASE);
    if (!node->load++)
        node->last_active_time = apr_time_now();
}

/* Give a process that has room to the oldest request. Returns whom to call, or 0. */
static int hand_over(fcgid_procnode *node)
{
    int previous, index;

    if (!(index = find_waiting(node, &previous))
        || !has_room(node, &queue->places[index], apr_time_now()))
        return 0;
    dequeue(previous, index);
    assign(index, node);
    return index;
}

/* Outside of the lock: the place may have another request by then, which looks and waits on. */
static void call(int index)
{
    if (index)
        sem_post(&queue->places[index].call);
}

static void wait_for_call(place_t *place, apr_interval_time_t interval)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t) apr_time_sec(interval);
    until.tv_nsec += (long) apr_time_usec(interval) * 1000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    sem_clockwait(&place->call, CLOCK_MONOTONIC, &until);
}

/* Whether another process would help: the class may have one more, and no other request of it is
 * asking at this moment.
 */
static int should_ask(const place_t *place, const fcgid_command *command)
{
    int index, most = command->cmdopts.max_class_process_count;

    for (index = queue->first; index; index = queue->places[index].next) {
        if (queue->places[index].asks && SAME_CLASS(&queue->places[index], place))
            return 0;
    }
    return count_in(proctable_get_busy_list(), place, most) < most;
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

/* A process for a request that has just come, if it need not wait. */
static fcgid_procnode *choose(const fcgid_command *command, const place_t *place)
{
    fcgid_procnode *line, *idle;
    int index;

    for (index = queue->first; index; index = queue->places[index].next) {
        if (SAME_CLASS(&queue->places[index], place))
            return NULL;
    }
    line = shortest_line(place);
    /* More processes than cores would only take the cores from each other. */
    if (line && line->load == 1 && 2 * line->usual_time < QUICK)
        return line;
    idle = take_idle(command);
    return idle ? idle : line;
}

fcgid_procnode *queue_take(request_rec *r, fcgid_command *command, apr_time_t deadline,
                           int *place_index)
{
    apr_interval_time_t patience = 0;
    fcgid_procnode *node;
    place_t *place;
    int index, previous, asks;

    proctable_lock(r);
    index = take_place(r, command);
    place = &queue->places[index];
    if (!index || (node = choose(command, place))) {
        if (index)
            assign(index, node);
        proctable_unlock(r);
        *place_index = index;
        return index ? node : NULL;
    }
    enqueue(index);
    /* There is nothing to wait for if no process of the class is at work. */
    if (count_in(proctable_get_busy_list(), place, 1))
        patience = FIRST_ASK;
    proctable_unlock(r);
    *place_index = index;

    for (;;) {
        if (patience) {
            wait_for_call(place, fcgid_min(patience, deadline - apr_time_now()));
            if ((index = __atomic_load_n(&place->node, __ATOMIC_ACQUIRE)))
                return node_at(index);
        }
        proctable_lock(r);
        if (place->node || apr_time_now() >= deadline)
            break;
        /* Whoever was about to hand over a process may have died over it. */
        if (!find_queued(*place_index, &previous))
            enqueue(*place_index);
        /* Or those before it in the queue are dead, and nobody has found out. */
        if ((node = take_idle(command))) {
            find_queued(*place_index, &previous);
            dequeue(previous, *place_index);
            assign(*place_index, node);
            break;
        }
        asks = place->asks = should_ask(place, command);
        proctable_unlock(r);

        if (asks) {
            procmgr_send_spawn_cmd(command, r);
            proctable_lock(r);
            place->asks = 0;
            proctable_unlock(r);
        }
        patience = patience ? fcgid_min(2 * patience, LAST_ASK) : FIRST_ASK;
    }

    if (!(index = place->node)) {
        if (find_queued(*place_index, &previous))
            dequeue(previous, *place_index);
        place->pid = 0;
        *place_index = 0;
    }
    proctable_unlock(r);
    return index ? node_at(index) : NULL;
}

/* Take note of how long a request took its process. */
static void learn(fcgid_procnode *node, apr_time_t now)
{
    apr_interval_time_t took = now - node->last_active_time;

    node->usual_time += (took - node->usual_time) / 8;
    if (took > SLOW)
        node->slow_at = now;
    node->last_active_time = now;
}

int queue_has(const fcgid_procnode *node, int place_index)
{
    return node->start_time == queue->places[place_index].start_time;
}

void queue_return(request_rec *r, fcgid_procnode *node, int *place_index, int error)
{
    int called[HANDED_AT_ONCE] = { 0 };
    place_t *place = &queue->places[*place_index];
    int i, previous;

    proctable_lock(r);
    if (queue_has(node, *place_index)) {
        int behind = place->turn > node->returned;

        node->returned++;
        if (node->load > 0)
            node->load--;
        /* Whatever went wrong before its turn came is a matter of the requests before it. */
        if (error && !behind && !node->ending) {
            give_up(proctable_get_busy_list(), node);
            /* One process less: let the oldest request ask for another one. */
            called[0] = find_waiting(node, &previous);
        }
        else if (!error && !node->ending) {
            learn(node, apr_time_now());
            for (i = 0; i < HANDED_AT_ONCE && (called[i] = hand_over(node)); i++)
                continue;
            if (!node->load) {
                unlink_node(proctable_get_busy_list(), node);
                /* From here on queue_repair() must not take the process for that of this place. */
                place->start_time = 0;
                __atomic_signal_fence(__ATOMIC_SEQ_CST);
                push(proctable_get_idle_list(), node);
            }
        }
    }
    place->pid = 0;
    *place_index = 0;
    proctable_unlock(r);
    for (i = 0; i < HANDED_AT_ONCE; i++)
        call(called[i]);
}

void queue_init_process(fcgid_procnode *node)
{
    node->load = 0;
    node->given = 0;
    node->returned = 0;
    node->ending = 0;
    node->usual_time = SLOW;
    node->slow_at = 0;
}

int queue_length(void)
{
    int index, length = 0;

    for (index = queue->first; index; index = queue->places[index].next)
        length++;
    return length;
}

int queue_is_wanted(server_rec *s, const fcgid_command *command)
{
    int index;

    proctable_pm_lock(s);
    for (index = queue->first; index; index = queue->places[index].next) {
        if (SAME_CLASS(&queue->places[index], command))
            break;
    }
    proctable_pm_unlock(s);
    return index;
}

void queue_offer(server_rec *s, fcgid_procnode *node)
{
    int next;

    proctable_pm_lock(s);
    next = hand_over(node);
    push(node->load ? proctable_get_busy_list() : proctable_get_idle_list(), node);
    proctable_pm_unlock(s);
    call(next);
}

void queue_retire_idle(server_rec *s)
{
    fcgid_procnode *previous, *node;

    proctable_pm_lock(s);
    for (previous = proctable_get_idle_list(); previous->next_index;) {
        node = node_at(previous->next_index);
        if (apr_time_now() - node->last_active_time < apr_time_from_sec(1)) {
            previous = node;
            continue;
        }
        node->diewhy = FCGID_DIE_SHUTDOWN;
        give_up(previous, node);
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

    /* What dead children had. A process that works for nobody is ended: nobody would know when it is
     * done. One that has others' requests too goes on with them.
     */
    for (index = 1; index <= queue->size; index++) {
        place_t *place = &queue->places[index];

        if (!place->pid || is_alive(place->pid))
            continue;
        node = node_at(place->node);
        if (place->node && node->start_time == place->start_time && !node->ending) {
            if (node->load > 1) {
                node->load--;
                node->returned++;
            }
            else {
                node->diewhy = FCGID_DIE_COMM_ERROR;
                give_up(proctable_get_busy_list(), node);
                found++;
            }
        }
        else if (!place->node && find_queued(index, &previous))
            dequeue(previous, index);
        place->pid = 0;
    }

    /* Processes that were on their way from one list to another. */
    for (i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        for (node = lists[i]; node->next_index; node = node_at(node->next_index))
            listed[node->next_index] = 1;
    }
    for (i = 0; i < proctable_get_table_size(); i++) {
        node = node_at((int) i);
        if (node->proc_pool && !listed[i]) {
            node->diewhy = FCGID_DIE_COMM_ERROR;
            give_up(proctable_get_busy_list(), node);
            found++;
        }
    }
    proctable_pm_unlock(s);
    return found;
}
