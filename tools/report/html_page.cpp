#include "tools/report/html_page.hpp"

#include <fmt/format.h>

#include "golden/catalogue/embedded_texts.hpp"
#include "tools/report/xml.hpp"

namespace moeref {

std::span<const EmbeddedText> page_texts();  // html_page.css and html_page.js (CMakeLists.txt)

namespace {

std::string_view page_text(std::string_view file) {
  for (const EmbeddedText& text : page_texts())
    if (text.file == file) return text.text;
  return "";
}

}  // namespace

std::string html_page(std::string_view title, std::string_view body) {
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light "
      "dark\">\n"
      // Behind the escaping, a second wall: nothing is loaded, no handler or link runs a script.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'nonce-page'\">\n<title>";
  out += xml_escaped(title) + "</title>\n<style>\n";
  out += page_text("html_page.css");
  out += "</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#cases\">To the cases</a>\n";
  out += body;
  out += "<script nonce=\"page\">\n";
  out += page_text("html_page.js");
  return out + "</script>\n</body>\n</html>\n";
}

}  // namespace moeref
