# IN, a CUDA source, as C++ over emulated/*.hpp into OUT: launches and dynamic shared memory, the two things that
# no header can give a meaning.
file(READ "${IN}" text)
string(REGEX REPLACE "extern __shared__ (__align__\\([0-9]+\\) )?([a-z]+( [a-z]+)*) ([a-z_]+)\\[\\]"
  "\\2* const \\4 = ::emulated::dynamic_shared<\\2>()" text "${text}")
foreach(arguments "(<[A-Za-z0-9_, ]+>)" "()")  # of a template, or none
  string(REGEX REPLACE "([A-Za-z_][A-Za-z_0-9]*)${arguments}[ \n]*<<<([^;]*)>>>(\\([^;]*\\));"
    "::emulated::Launch(\"\\1\", \\3).run([=] { \\1\\2\\4; });" text "${text}")
endforeach()
if(text MATCHES "<<<|extern __shared__")
  message(FATAL_ERROR "${IN}: a launch or a declaration of shared memory that translate.cmake cannot read")
endif()
file(WRITE "${OUT}" "#line 1 \"${IN}\"\n${text}")
