/* Decodes name-value pairs (FastCGI 1.0, section 3.4), which is the largest part of a small request's
 * cost in Python. `records` has the same in Python and takes this when it was compiled: see compile.py.
 * That both find the same, whatever the bytes, is a property test.
 */

#define Py_LIMITED_API 0x03090000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

/* The names that requests have are nearly always the same few: those that were met last, each at the
 * place that its bytes say. Python's lock guards them.
 */
#define PLACES 256
#define LONGEST_NAME 48

static struct {
    PyObject *name;
    size_t size;
    char bytes[LONGEST_NAME];
} met[PLACES];

static PyObject *name_of(const char *bytes, size_t size)
{
    unsigned place = (unsigned) size;
    PyObject *name;
    size_t i;

    if (size > LONGEST_NAME)
        return PyUnicode_DecodeLatin1(bytes, (Py_ssize_t) size, NULL);
    for (i = 0; i < size; i++)
        place = place * 31 + (unsigned char) bytes[i];
    place = (place ^ place >> 8) % PLACES;
    if (!met[place].name || met[place].size != size || memcmp(met[place].bytes, bytes, size)) {
        if (!(name = PyUnicode_DecodeLatin1(bytes, (Py_ssize_t) size, NULL)))
            return NULL;
        Py_XDECREF(met[place].name);
        met[place].name = name;
        met[place].size = size;
        memcpy(met[place].bytes, bytes, size);
    }
    Py_INCREF(met[place].name);
    return met[place].name;
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

static int add_pair(PyObject *pairs, const char *bytes, size_t name_size, size_t value_size)
{
    PyObject *name = name_of(bytes, name_size);
    PyObject *value = PyUnicode_DecodeLatin1(bytes + name_size, (Py_ssize_t) value_size, NULL);
    int failed = !name || !value || PyDict_SetItem(pairs, name, value) < 0;

    Py_XDECREF(name);
    Py_XDECREF(value);
    return failed;
}

/* Returns a dict, or None when the data ends inside a pair. */
static PyObject *decode(PyObject *module, PyObject *data)
{
    const unsigned char *at, *end;
    size_t name_size, value_size;
    Py_ssize_t size;
    PyObject *pairs;
    char *bytes;

    (void) module;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0 || !(pairs = PyDict_New()))
        return NULL;
    at = (const unsigned char *) bytes;
    end = at + size;
    while (at < end) {
        if (!(at = get_size(at, end, &name_size)) || !(at = get_size(at, end, &value_size))
            || (size_t) (end - at) < name_size || (size_t) (end - at) - name_size < value_size) {
            Py_DECREF(pairs);
            Py_RETURN_NONE;
        }
        if (add_pair(pairs, (const char *) at, name_size, value_size)) {
            Py_DECREF(pairs);
            return NULL;
        }
        at += name_size + value_size;
    }
    return pairs;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_O, "Return the name-value pairs in bytes, None when they end inside one."},
    {NULL, NULL, 0, NULL}
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_speedups", NULL, -1, methods, NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC PyInit__speedups(void)
{
    return PyModule_Create(&definition);
}
