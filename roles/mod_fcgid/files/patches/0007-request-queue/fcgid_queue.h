/* Licensed under the Apache License, Version 2.0. Copyright fcgid.stack maintainers. */

/*
 * Assigns FastCGI processes to requests, first come, first served within each process class.
 *
 * A request takes an idle process of its class, or waits in the queue, which is in shared memory
 * after the process table. A request that finishes, or the process manager when it has started a
 * process, assigns that process directly to the oldest waiting request of its class. No process is
 * idle while a request of its class waits.
 *
 * Where a class responds in well under a millisecond, waking the next request would take longer
 * than the request itself. Such a process gets a short backlog: a few requests are sent ahead and
 * wait in the listen queue of its socket, so that it always finds the next one. Only GET and HEAD
 * requests enter a backlog, since they can be sent again to another process if theirs ends. When a
 * fast process turns slow, only the requests already in its backlog are delayed.
 *
 * All of this happens under the lock of the process table. An httpd child or a FastCGI process may
 * die at any instruction: every list is consistent between two stores, and the process manager
 * releases what a dead child held.
 */

#ifndef FCGID_QUEUE_H
#define FCGID_QUEUE_H

#include "fcgid_pm.h"
#include "fcgid_proctbl.h"

/* Size of the queue's shared memory, in bytes. */
apr_size_t queue_shm_size(void);

/* Create an empty queue in this shared memory, which must be zeroed. */
void queue_init(void *shm);

/* To be called in each httpd child after the fork, and in the process manager. */
void queue_child_init(void);

/* Get a process for a request: an idle one, or one that is assigned before `deadline`. Returns NULL
 * if there was none. *slot is for queue_release(), which must follow unless NULL was returned.
 */
fcgid_procnode *queue_acquire(request_rec *r, fcgid_command *command, apr_time_t deadline,
                              int *slot);

/* Whether the node still holds the process that was assigned to the request. */
int queue_is_current(const fcgid_procnode *node, int slot);

/* Release the process of a request: it serves the next one, or is ended if `error`. */
void queue_release(request_rec *r, fcgid_procnode *node, int *slot, int error);

/* The number of waiting requests of all classes. The caller holds the lock. */
int queue_length(void);

/* Process manager: prepare a node for a new process. */
void queue_init_process(fcgid_procnode *node);

/* Process manager: whether a request waits for a process of this class. */
int queue_has_waiter(server_rec *s, const fcgid_command *command);

/* Process manager: make a process that is in no list available to requests. */
void queue_offer(server_rec *s, fcgid_procnode *node);

/* Process manager: retire the idle processes for which `should_retire` returns non-zero. */
void queue_retire_idle(server_rec *s, int (*should_retire)(const fcgid_procnode *));

/* Process manager: release what dead httpd children held. Returns the number of processes that were
 * moved to the error list for it.
 */
int queue_repair(server_rec *s);

#endif
