# moeref_embed_texts(TARGET NAME FILE...): the texts become part of the target as
#   namespace moeref { std::span<const EmbeddedText> NAME(); }
# declared in golden/catalogue/embedded_texts.hpp, so that an installed program needs no path to them.
function(moeref_embed_texts target name)
  set(code "#include \"golden/catalogue/embedded_texts.hpp\"\n\nnamespace moeref {\nnamespace {\nconstexpr EmbeddedText kTexts[] = {\n")
  foreach(file IN LISTS ARGN)
    file(READ ${file} text)
    get_filename_component(base ${file} NAME)
    string(APPEND code "{\"${base}\", R\"MOEREF(${text})MOEREF\"},\n")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  endforeach()
  string(APPEND code "};\n}  // namespace\nstd::span<const EmbeddedText> ${name}() { return kTexts; }\n}  // namespace moeref\n")
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp)
  # Written only when it changes, so that configuring again does not compile again.
  set(previous "")
  if(EXISTS ${output})
    file(READ ${output} previous)
  endif()
  if(NOT previous STREQUAL code)
    file(WRITE ${output} "${code}")
  endif()
  target_sources(${target} PRIVATE ${output})
  set_source_files_properties(${output} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)  # each has its own kTexts
endfunction()
