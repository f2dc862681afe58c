/* The C half of mixed.py's extension module `mixedext`: the way from Python into C and back into Python.
 * Built by mixed.py with the interpreter's own headers; mixed_cpp.cpp is the C++ half. Truth: see mixed.py.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern void mixed_burst(long spins, long bytes);

/* Keeps the caller's frame: nothing after a call would make it a jump. */
#define HOLD __asm__ volatile("" ::: "memory")

__attribute__((noinline)) static void mixed_spin(long turns) {
    for (long i = 0; i < turns; i++) {
        __asm__ volatile("" : : "r"(i));
    }
}

__attribute__((noinline)) static PyObject *mixed_layer(PyObject *callback, long turns) {
    mixed_spin(turns);
    PyObject *result = PyObject_CallFunctionObjArgs(callback, NULL);
    HOLD;
    return result;
}

static PyObject *mixed_enter(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *callback;
    long turns;
    if (!PyArg_ParseTuple(args, "Ol", &callback, &turns)) {
        return NULL;
    }
    PyObject *result = mixed_layer(callback, turns);
    HOLD;
    return result;
}

static PyObject *mixed_leave(PyObject *self, PyObject *args) {
    (void)self;
    long spins, bytes;
    if (!PyArg_ParseTuple(args, "ll", &spins, &bytes)) {
        return NULL;
    }
    mixed_burst(spins, bytes);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"enter", mixed_enter, METH_VARARGS, "enter(callback, turns): spin in C, then call back into Python"},
    {"leave", mixed_leave, METH_VARARGS, "leave(spins, bytes): spin in C++, then in the kernel"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "mixedext", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_mixedext(void) { return PyModule_Create(&module); }
