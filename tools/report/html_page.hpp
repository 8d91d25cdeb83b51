// The frame of every HTML page: one file with its style and script in it, which loads nothing.
#pragma once

#include <string>
#include <string_view>

namespace moeref {

/// The page around a body of markup; `title` is text and is escaped. The body holds an element with the id
/// "cases" and the form that html_page.js filters its list by.
std::string html_page(std::string_view title, std::string_view body);

}  // namespace moeref
