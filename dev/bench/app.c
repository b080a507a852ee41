/* The twin of app.py, with libfcgi: what it answers is there.
 *
 * cc -Wall -Wextra -Werror -O2 app.c -o app -lfcgi
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <fcgiapp.h>

static const char hello[] = "Hello, world!\n";
static char big[100000];

static void answer(FCGX_Stream *out, const char *body, int length)
{
    FCGX_FPrintF(out, "Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n", length);
    FCGX_PutStr(body, length, out);
}

int main(void)
{
    static const struct timespec work = {0, 10 * 1000 * 1000};
    static char block[65536];
    FCGX_Stream *in, *out, *err;
    FCGX_ParamArray environment;

    memset(big, 'x', sizeof big);
    while (FCGX_Accept(&in, &out, &err, &environment) >= 0) {
        const char *path = FCGX_GetParam("PATH_INFO", environment);

        if (path == NULL)
            path = "";
        if (strcmp(path, "/hello") == 0) {
            answer(out, hello, sizeof hello - 1);
        } else if (strcmp(path, "/work") == 0) {
            nanosleep(&work, NULL);
            answer(out, hello, sizeof hello - 1);
        } else if (strcmp(path, "/big") == 0) {
            answer(out, big, sizeof big);
        } else if (strcmp(path, "/upload") == 0) {
            long total = 0;
            int length;

            while ((length = FCGX_GetStr(block, sizeof block, in)) > 0)
                total += length;
            answer(out, block, snprintf(block, sizeof block, "%ld\n", total));
        } else {
            FCGX_FPrintF(out, "Status: 404 Not Found\r\n\r\n");
        }
    }
    return EXIT_SUCCESS;
}
