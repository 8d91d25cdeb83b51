// The fields of one JSON object: what a call's config and options are. Every field is there; values are
// texts, numbers, true, false, null, and lists, which are kept as they stand.
#pragma once

#include <map>
#include <stdexcept>
#include <string>

namespace example {

class JsonFields {
 public:
  explicit JsonFields(const std::string& text) {
    std::size_t at = text.find('{') + 1;
    for (;;) {
      const std::size_t name = text.find('"', at);
      if (name == std::string::npos) return;
      const std::size_t name_end = text.find('"', name + 1);
      const std::size_t value = text.find_first_not_of(" \t\n", text.find(':', name_end) + 1);
      std::size_t end = value;
      if (text[value] == '"')
        end = text.find('"', value + 1) + 1;
      else if (text[value] == '[')
        end = text.find(']', value) + 1;
      else
        end = text.find_first_of(",} \t\n", value);
      fields_[text.substr(name + 1, name_end - name - 1)] = text.substr(value, end - value);
      at = end;
    }
  }

  bool null(const std::string& field) const { return raw(field) == "null"; }
  bool flag(const std::string& field) const { return raw(field) == "true"; }
  long integer(const std::string& field) const { return std::stol(raw(field)); }
  float number(const std::string& field) const { return static_cast<float>(std::stod(raw(field))); }
  std::string text(const std::string& field) const {
    const std::string& value = raw(field);
    return value.size() >= 2 && value.front() == '"' ? value.substr(1, value.size() - 2) : value;
  }

 private:
  const std::string& raw(const std::string& field) const {
    const auto it = fields_.find(field);
    if (it == fields_.end()) throw std::runtime_error("the call has no field " + field);
    return it->second;
  }

  std::map<std::string, std::string> fields_;
};

}  // namespace example
