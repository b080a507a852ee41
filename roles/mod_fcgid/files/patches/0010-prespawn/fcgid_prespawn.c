/* Licensed under the Apache License, Version 2.0. Copyright fcgid.stack maintainers. */

#include <sys/stat.h>
#include "apr_tables.h"
#include "fcgid_prespawn.h"

#pragma GCC diagnostic error "-Wall"
#pragma GCC diagnostic error "-Wextra"

int prespawn_is_due(fcgid_prespawn *program)
{
    struct stat file;

    if (stat(program->path, &file) != 0
        || (file.st_ino == program->inode && file.st_dev == program->deviceid))
        return 0;
    program->inode = file.st_ino;
    program->deviceid = file.st_dev;
    return 1;
}

void prespawn_command(server_rec *s, const fcgid_prespawn *program, fcgid_command *command,
                      apr_pool_t *pool)
{
    request_rec *r = apr_pcalloc(pool, sizeof(*r));
    fcgid_cmd_conf cmd_conf = { 0 };

    cmd_conf.cgipath = cmd_conf.cmdline = program->path;
    cmd_conf.inode = program->inode;
    cmd_conf.deviceid = program->deviceid;

    /* The parts of a request that select the virtual host's settings and its suEXEC user. */
    r->pool = pool;
    r->server = s;
    r->per_dir_config = s->lookup_defaults;
    r->notes = apr_table_make(pool, 1);
    procmgr_init_spawn_cmd(command, r, &cmd_conf);
    get_cmd_options(r, command->cgipath, &command->cmdopts, &command->cmdenv);
}
