/* Licensed under the Apache License, Version 2.0. Copyright fcgid.stack maintainers. */

/* Processes that are there before the first request: FcgidPrespawn. */

#ifndef FCGID_PRESPAWN_H
#define FCGID_PRESPAWN_H

#include "fcgid_pm.h"

/* The spawn command that a request for this program on this virtual host would send. */
apr_status_t prespawn_command(server_rec *s, const char *path, fcgid_command *command,
                              apr_pool_t *pool);

#endif
