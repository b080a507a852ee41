/* Licensed under the Apache License, Version 2.0. Copyright fcgid.stack maintainers. */

/* FcgidPrespawn: processes that are started before the first request. */

#ifndef FCGID_PRESPAWN_H
#define FCGID_PRESPAWN_H

#include "fcgid_pm.h"

/* Whether the program's file has appeared or was replaced since this last returned non-zero. */
int prespawn_is_due(fcgid_prespawn *program);

/* The spawn command that a request for this program on this virtual host would send. */
void prespawn_command(server_rec *s, const fcgid_prespawn *program, fcgid_command *command,
                      apr_pool_t *pool);

#endif
