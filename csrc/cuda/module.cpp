// `import lmdis_fast._C_cuda` loads this library, whose static initialisers register the operators; the module is
// empty.
#include <Python.h>

PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
