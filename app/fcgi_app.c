/* The smallest useful FastCGI application: a greeting and a count, with libfcgi.
 *
 * cc -Wall -Wextra -Werror -O2 fcgi_app.c -o fcgi_app -lfcgi
 *
 * Started without a listening socket on descriptor 0, it answers one CGI request.
 */
#include <fcgi_stdio.h>
#include <fcgiapp.h>

int main(void)
{
    unsigned long count = 0;
    char body[4096];

    while (FCGI_Accept() >= 0) {
        /* A request body is of no interest, but left unread it would break the request. */
        while (!FCGX_IsCGI() && fread(body, 1, sizeof body, stdin) > 0)
            continue;
        printf("Content-type: text/html\r\n"
               "\r\n"
               "Hello world!<br>\r\n"
               "Request number %lu.",
               count++);
    }
    return 0;
}
