"""Prints the offsets that src/python/layout.rs needs, out of the DWARF of a CPython build.

    gdb -q -batch -x scripts/python_layout.py /path/to/libpython3.12.so.1.0

One line a field, `name offset`, `-` where this version has no such field. The test `layouts_equal_dwarf` runs it over
every interpreter it finds and compares each line with the table; to add a version, run it and copy the numbers.
"""

import gdb

gdb.execute("set max-value-size unlimited")

# field of Layout -> the (structure, member path) it may have; the first that exists wins.
FIELDS = {
    "runtime_interpreters_head": [("_PyRuntimeState", "interpreters.head")],
    "runtime_tstate_current": [("_PyRuntimeState", "gilstate.tstate_current")],
    "runtime_gil": [("_PyRuntimeState", "ceval.gil")],
    "interp_next": [("PyInterpreterState", "next")],
    "interp_id": [("PyInterpreterState", "id")],
    "interp_threads_head": [("PyInterpreterState", "threads.head"), ("PyInterpreterState", "tstate_head")],
    "interp_modules": [("PyInterpreterState", "imports.modules"), ("PyInterpreterState", "modules")],
    "interp_gil": [("PyInterpreterState", "ceval.gil")],
    "gil_last_holder": [("struct _gil_runtime_state", "last_holder")],
    "gil_locked": [("struct _gil_runtime_state", "locked")],
    "gil_switch_number": [("struct _gil_runtime_state", "switch_number")],
    "ts_next": [("PyThreadState", "next")],
    "ts_interp": [("PyThreadState", "interp")],
    "ts_thread_id": [("PyThreadState", "thread_id")],
    "ts_native_thread_id": [("PyThreadState", "native_thread_id")],
    "ts_frame": [("PyThreadState", "frame"), ("PyThreadState", "current_frame")],
    "ts_cframe": [("PyThreadState", "cframe")],
    "cframe_current_frame": [("struct _PyCFrame", "current_frame")],
    "cframe_previous": [("struct _PyCFrame", "previous"), ("struct _cframe", "previous")],
    "frame_previous": [("struct _PyInterpreterFrame", "previous"), ("struct _frame", "f_back")],
    "frame_code": [
        ("struct _PyInterpreterFrame", "f_executable"),
        ("struct _PyInterpreterFrame", "f_code"),
        ("struct _frame", "f_code"),
    ],
    "frame_instr": [
        ("struct _PyInterpreterFrame", "instr_ptr"),
        ("struct _PyInterpreterFrame", "prev_instr"),
        ("struct _frame", "f_lasti"),
    ],
    "frame_owner": [("struct _PyInterpreterFrame", "owner")],
    "frame_is_entry": [("struct _PyInterpreterFrame", "is_entry")],
    "frame_localsplus": [("struct _PyInterpreterFrame", "localsplus"), ("struct _frame", "f_localsplus")],
    "code_filename": [("PyCodeObject", "co_filename")],
    "code_name": [("PyCodeObject", "co_name")],
    "code_qualname": [("PyCodeObject", "co_qualname")],
    "code_firstlineno": [("PyCodeObject", "co_firstlineno")],
    "code_linetable": [("PyCodeObject", "co_linetable"), ("PyCodeObject", "co_lnotab")],
    "code_adaptive": [("PyCodeObject", "co_code_adaptive")],
    "code_bytecode": [("PyCodeObject", "co_code")],
    "code_argcount": [("PyCodeObject", "co_argcount")],
    "code_kwonlyargcount": [("PyCodeObject", "co_kwonlyargcount")],
    "code_flags": [("PyCodeObject", "co_flags")],
    "code_nlocals": [("PyCodeObject", "co_nlocals")],
    "code_varnames": [("PyCodeObject", "co_varnames")],
    "code_cellvars": [("PyCodeObject", "co_cellvars")],
    "code_freevars": [("PyCodeObject", "co_freevars")],
    "code_localsplusnames": [("PyCodeObject", "co_localsplusnames")],
    "code_localspluskinds": [("PyCodeObject", "co_localspluskinds")],
    "ob_type": [("PyObject", "ob_type")],
    "ob_size": [("PyVarObject", "ob_size")],
    "str_length": [("PyASCIIObject", "length")],
    "str_state": [("PyASCIIObject", "state")],
    "str_ascii_data": [("PyASCIIObject", None)],
    "str_compact_data": [("PyCompactUnicodeObject", None)],
    "bytes_data": [("PyBytesObject", "ob_sval")],
    "tuple_items": [("PyTupleObject", "ob_item")],
    "list_items": [("PyListObject", "ob_item")],
    "cell_value": [("PyCellObject", "ob_ref")],
    "float_value": [("PyFloatObject", "ob_fval")],
    "long_tag": [("PyLongObject", "long_value.lv_tag")],
    "long_digits": [("PyLongObject", "long_value.ob_digit"), ("PyLongObject", "ob_digit")],
    "dict_used": [("PyDictObject", "ma_used")],
    "dict_keys": [("PyDictObject", "ma_keys")],
    "dict_values": [("PyDictObject", "ma_values")],
    "keys_size": [("struct _dictkeysobject", "dk_size")],
    "keys_log2_size": [("struct _dictkeysobject", "dk_log2_size")],
    "keys_log2_index_bytes": [("struct _dictkeysobject", "dk_log2_index_bytes")],
    "keys_kind": [("struct _dictkeysobject", "dk_kind")],
    "keys_nentries": [("struct _dictkeysobject", "dk_nentries")],
    "keys_indices": [("struct _dictkeysobject", "dk_indices")],
    "set_used": [("PySetObject", "used")],
    "set_mask": [("PySetObject", "mask")],
    "set_table": [("PySetObject", "table")],
    "type_name": [("PyTypeObject", "tp_name")],
    "type_flags": [("PyTypeObject", "tp_flags")],
    "type_base": [("PyTypeObject", "tp_base")],
    "type_dict": [("PyTypeObject", "tp_dict")],
    "type_basicsize": [("PyTypeObject", "tp_basicsize")],
    "type_dictoffset": [("PyTypeObject", "tp_dictoffset")],
    "heap_type_qualname": [("PyHeapTypeObject", "ht_qualname")],
    "heap_type_cached_keys": [("PyHeapTypeObject", "ht_cached_keys")],
    "module_dict": [("PyModuleObject", "md_dict")],
    "func_code": [("PyFunctionObject", "func_code")],
    "func_qualname": [("PyFunctionObject", "func_qualname")],
    "func_closure": [("PyFunctionObject", "func_closure")],
    "method_function": [("classmethod", "cm_callable")],
    "property_getter": [("propertyobject", "prop_get")],
    "code_consts": [("PyCodeObject", "co_consts")],
}


def bit_offset(struct, path):
    """Offset of `path` in `struct` in bits, through anonymous members; KeyError when there is none."""
    total = 0
    for name in path.split("."):
        struct = struct.strip_typedefs()
        for field in struct.fields():
            if field.name == name:
                total += field.bitpos
                struct = field.type
                break
            if field.name is None and field.type.strip_typedefs().code == gdb.TYPE_CODE_UNION:
                inner = {f.name: f for f in field.type.strip_typedefs().fields()}
                if name in inner:
                    total += field.bitpos + inner[name].bitpos
                    struct = inner[name].type
                    break
        else:
            raise KeyError(path)
    return total


def look_up(candidates):
    for struct, path in candidates:
        try:
            kind = gdb.lookup_type(struct).strip_typedefs()
            if not kind.fields():
                continue
            return kind.sizeof if path is None else bit_offset(kind, path) // 8
        except (gdb.error, KeyError, TypeError):
            continue
    return "-"


for name, candidates in FIELDS.items():
    print(name, look_up(candidates))
