#include "tools/report/tests/xml_document.hpp"

#include <stdexcept>

namespace moeref::testing {
namespace {

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  XmlElement document() {
    expect("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
    skip_space();
    XmlElement root = element();
    skip_space();
    if (at_ != text_.size()) fail("something follows the root element");
    return root;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("at byte " + std::to_string(at_) + ": " + what);
  }

  bool take(std::string_view token) {
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }

  void expect(std::string_view token) {
    if (!take(token)) fail("want " + std::string(token));
  }

  char next() {
    if (at_ == text_.size()) fail("the text ends too soon");
    return text_[at_++];
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }

  std::string name() {
    const std::size_t first = at_;
    while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '-'))
      ++at_;
    if (at_ == first) fail("want a name");
    return std::string(text_.substr(first, at_ - first));
  }

  /// One character, or what an entity stands for.
  char character() {
    const char c = next();
    if (c == '<') fail("a bare <");
    if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') fail("a control character");
    if (c != '&') return c;
    const std::size_t end = text_.find(';', at_);
    if (end == std::string_view::npos) fail("a bare &");
    const std::string_view entity = text_.substr(at_, end - at_);
    at_ = end + 1;
    constexpr std::pair<std::string_view, char> kEntities[] = {{"amp", '&'},  {"lt", '<'},    {"gt", '>'},
                                                               {"quot", '"'}, {"apos", '\''}, {"#10", '\n'},
                                                               {"#9", '\t'},  {"#13", '\r'}};
    for (const auto& [known, value] : kEntities)
      if (entity == known) return value;
    fail("unknown entity " + std::string(entity));
  }

  XmlElement element() {
    expect("<");
    XmlElement out;
    out.name = name();
    for (;;) {
      skip_space();
      if (take("/>")) return out;
      if (take(">")) break;
      const std::string attribute = name();
      expect("=\"");
      std::string value;
      while (!take("\"")) value += character();
      if (!out.attributes.emplace(attribute, value).second) fail("attribute " + attribute + " comes twice");
    }
    while (!text_.substr(at_).starts_with("</")) {
      if (text_.substr(at_).starts_with("<"))
        out.children.push_back(element());
      else
        out.text += character();
    }
    expect("</" + out.name + ">");
    return out;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<const XmlElement*> XmlElement::all(std::string_view wanted) const {
  std::vector<const XmlElement*> out;
  for (const XmlElement& child : children) {
    if (child.name == wanted) out.push_back(&child);
    for (const XmlElement* inner : child.all(wanted)) out.push_back(inner);
  }
  return out;
}

XmlElement parse_xml(std::string_view text) { return Parser(text).document(); }

}  // namespace moeref::testing
