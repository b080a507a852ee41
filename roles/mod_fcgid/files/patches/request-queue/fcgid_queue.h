/* Licensed under the Apache License, Version 2.0. Copyright fcgid.stack maintainers. */

/*
 * Who gets which FastCGI process, first come, first served for each process class.
 *
 * A request takes an idle process of its class, or waits in the queue, which lies in shared memory
 * beside the process table. Whoever has a process to spare (the request that is done with it, or
 * the process manager that started it) hands it straight to the oldest request that waits for its
 * class; so no process is idle while a request of its class waits.
 *
 * Where a class answers in well under a millisecond, waking the next request would take longer than
 * answering it. There a few requests line up at the process itself, in the listen queue of its
 * socket: it always finds the next one. Only GET and HEAD do, which can be sent again to another
 * process if theirs ends. A request that is slow after a long calm holds those up that have lined
 * up behind it, and no more.
 *
 * Everything here happens under the lock of the process table. A httpd child or a process may die
 * at any instruction: between two stores every list is a list, and the process manager looks for
 * what a dead child left behind.
 */

#ifndef FCGID_QUEUE_H
#define FCGID_QUEUE_H

#include "fcgid_pm.h"
#include "fcgid_proctbl.h"

/* Bytes of shared memory that the queue needs. */
apr_size_t queue_shm_size(void);

/* Start with an empty queue in this shared memory, which is filled with zeros. */
void queue_init(void *shm);

/* In each httpd child, once it is one. */
void queue_child_init(void);

/* Take a process for a request: an idle one, or one that is handed over before `deadline`. NULL if
 * there was none. *place is for queue_return(), which must follow unless NULL was returned.
 */
fcgid_procnode *queue_take(request_rec *r, fcgid_command *command, apr_time_t deadline,
                           int *place);

/* Whether the process that a request was given is still the one in this node. */
int queue_has(const fcgid_procnode *node, int place);

/* The request is done with its process, which serves the next one, or is ended if `error`. */
void queue_return(request_rec *r, fcgid_procnode *node, int *place, int error);

/* How many requests wait, of all classes. The caller holds the lock. */
int queue_length(void);

/* The process manager: a node gets a new process. */
void queue_init_process(fcgid_procnode *node);

/* The process manager: whether a request waits for a process of this class. */
int queue_is_wanted(server_rec *s, const fcgid_command *command);

/* The process manager: a process of no list is ready for a request. */
void queue_offer(server_rec *s, fcgid_procnode *node);

/* The process manager, after a reload: end the processes that nobody has used for a second. */
void queue_retire_idle(server_rec *s);

/* The process manager: take back what httpd children that died had taken. Returns the number of
 * processes that are of no use any more, in the error list.
 */
int queue_repair(server_rec *s);

#endif
