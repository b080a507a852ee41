/* Licensed under the Apache License, Version 2.0. Copyright fcgid.stack maintainers. */

#include "apr_file_info.h"
#include "apr_tables.h"
#include "fcgid_prespawn.h"

#pragma GCC diagnostic error "-Wall"
#pragma GCC diagnostic error "-Wextra"

apr_status_t prespawn_command(server_rec *s, const char *path, fcgid_command *command,
                              apr_pool_t *pool)
{
    request_rec *r = apr_pcalloc(pool, sizeof(*r));
    fcgid_cmd_conf program = { 0 };
    apr_finfo_t finfo;
    apr_status_t rv = apr_stat(&finfo, path, APR_FINFO_IDENT, pool);

    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, rv, s,
                     "mod_fcgid: FcgidPrespawn %s: no such program yet", path);
        return rv;
    }
    program.cgipath = program.cmdline = path;
    program.inode = finfo.inode;
    program.deviceid = finfo.device;

    /* As much of a request as is looked at for the virtual host's settings and suEXEC user. */
    r->pool = pool;
    r->server = s;
    r->per_dir_config = s->lookup_defaults;
    r->notes = apr_table_make(pool, 1);
    procmgr_init_spawn_cmd(command, r, &program);
    get_cmd_options(r, command->cgipath, &command->cmdopts, &command->cmdenv);
    return APR_SUCCESS;
}
