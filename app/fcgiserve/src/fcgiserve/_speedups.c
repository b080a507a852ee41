/* Decodes name-value pairs (FastCGI 1.0, section 3.4), and the whole request that mod_fcgid sends for a GET:
 * the largest part of a small request's cost in Python. `records` and `connection` have the same in Python
 * and take this when it was compiled: see compile.py. That both find the same, whatever the bytes, are
 * property tests.
 */

#define Py_LIMITED_API 0x03090000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

/* Most pairs come again with the next request: those that were met last, each at the place that its name
 * says. `bytes` holds the name and then the value, as a stream does. Python's lock guards them.
 */
#define PLACES 256
#define LONGEST_PAIR 128

struct pair {
    PyObject *name, *value;
    size_t name_size, value_size;
    char bytes[LONGEST_PAIR];
};

static struct pair met[PLACES];

static struct pair *place_of(const char *name, size_t size)
{
    const unsigned char *byte = (const unsigned char *) name;

    return &met[size ? (7 * size + 31 * byte[0] + 17 * byte[size / 2] + byte[size - 1]) % PLACES : 0];
}

static PyObject *text(const char *bytes, size_t size)
{
    return PyUnicode_DecodeLatin1(bytes, (Py_ssize_t) size, NULL);
}

static int add_long_pair(PyObject *pairs, const char *bytes, size_t name_size, size_t value_size)
{
    PyObject *name = text(bytes, name_size);
    PyObject *value = text(bytes + name_size, value_size);
    int failed = !name || !value || PyDict_SetItem(pairs, name, value) < 0;

    Py_XDECREF(name);
    Py_XDECREF(value);
    return failed;
}

static int add_pair(PyObject *pairs, const char *bytes, size_t name_size, size_t value_size)
{
    struct pair *pair;
    PyObject *name, *value;
    int same_name;

    if (name_size > LONGEST_PAIR || value_size > LONGEST_PAIR - name_size)
        return add_long_pair(pairs, bytes, name_size, value_size);
    pair = place_of(bytes, name_size);
    same_name = pair->name && pair->name_size == name_size && !memcmp(pair->bytes, bytes, name_size);
    if (!same_name || pair->value_size != value_size
        || memcmp(pair->bytes + name_size, bytes + name_size, value_size)) {
        if (!(value = text(bytes + name_size, value_size)))
            return -1;
        if (!same_name) {
            if (!(name = text(bytes, name_size))) {
                Py_DECREF(value);
                return -1;
            }
            Py_XDECREF(pair->name);
            pair->name = name;
            pair->name_size = name_size;
        }
        Py_XDECREF(pair->value);
        pair->value = value;
        pair->value_size = value_size;
        memcpy(pair->bytes, bytes, name_size + value_size);
    }
    return PyDict_SetItem(pairs, pair->name, pair->value);
}

/* Read a length of one byte, or of four with the highest bit set; return what follows, NULL at the end. */
static const unsigned char *get_size(const unsigned char *at, const unsigned char *end, size_t *size)
{
    if (at < end && *at < 128) {
        *size = *at;
        return at + 1;
    }
    if (end - at < 4)
        return NULL;
    *size = (size_t) (at[0] & 127) << 24 | (size_t) at[1] << 16 | (size_t) at[2] << 8 | at[3];
    return at + 4;
}

static PyObject *decode_pairs(const unsigned char *at, const unsigned char *end)
{
    PyObject *pairs = PyDict_New();
    size_t name_size, value_size;

    while (pairs && at < end) {
        if (!(at = get_size(at, end, &name_size)) || !(at = get_size(at, end, &value_size))
            || (size_t) (end - at) < name_size || (size_t) (end - at) - name_size < value_size) {
            Py_DECREF(pairs);
            Py_RETURN_NONE;
        }
        if (add_pair(pairs, (const char *) at, name_size, value_size))
            Py_CLEAR(pairs);
        at += name_size + value_size;
    }
    return pairs;
}

static PyObject *decode(PyObject *module, PyObject *data)
{
    Py_ssize_t size;
    char *bytes;

    (void) module;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0)
        return NULL;
    return decode_pairs((const unsigned char *) bytes, (const unsigned char *) bytes + size);
}

/* What such a request begins with, up to the lengths in the header of PARAMS, and what it ends with. */
static const unsigned char begin[] = {1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 4, 0, 1};
static const unsigned char end[] = {1, 4, 0, 1, 0, 0, 0, 0, 1, 5, 0, 1, 0, 0, 0, 0};

static PyObject *decode_request(PyObject *module, PyObject *data)
{
    const unsigned char *at;
    size_t size, length;
    Py_ssize_t all;
    char *bytes;

    (void) module;
    if (PyBytes_AsStringAndSize(data, &bytes, &all) < 0)
        return NULL;
    at = (const unsigned char *) bytes;
    size = (size_t) all;
    if (size < sizeof begin + 4 + sizeof end || memcmp(at, begin, sizeof begin)
        || memcmp(at + size - sizeof end, end, sizeof end))
        Py_RETURN_NONE;
    at += sizeof begin;
    length = (size_t) at[0] << 8 | at[1];
    if (!length || size != sizeof begin + 4 + length + at[2] + sizeof end)
        Py_RETURN_NONE;
    return decode_pairs(at + 4, at + 4 + length);
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_O, "Return the name-value pairs in bytes, None when they end inside one."},
    {"decode_request", decode_request, METH_O,
     "Return the parameters of one whole request of the usual kind, None when the bytes are none."},
    {NULL, NULL, 0, NULL}
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_speedups", NULL, -1, methods, NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC PyInit__speedups(void)
{
    return PyModule_Create(&definition);
}
