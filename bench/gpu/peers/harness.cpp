#include "harness.hpp"

#include <cstdio>
#include <sstream>
#include <stdexcept>

Arguments::Arguments(const std::string& words) {
    std::istringstream stream(words);
    std::string word;
    while (stream >> word) {
        const auto equals = word.find('=');
        if (equals == std::string::npos) throw std::runtime_error("'" + word + "' is not name=value");
        values[word.substr(0, equals)] = word.substr(equals + 1);
    }
}

std::string Arguments::text(const std::string& name) const {
    const auto found = values.find(name);
    if (found == values.end()) throw std::runtime_error("no " + name + "= was given");
    return found->second;
}

std::string Arguments::text(const std::string& name, const std::string& otherwise) const {
    return values.count(name) ? text(name) : otherwise;
}

double Arguments::number(const std::string& name) const { return std::stod(text(name)); }

double Arguments::number(const std::string& name, double otherwise) const {
    return values.count(name) ? number(name) : otherwise;
}

std::string quoted(const std::string& text) {
    std::string json = "\"";
    for (const char letter : text) {
        if (letter == '"' || letter == '\\') json += '\\';
        json += static_cast<unsigned char>(letter) < ' ' ? ' ' : letter;
    }
    return json + "\"";
}

Row& Row::raw(const std::string& key, const std::string& value) {
    if (!fields.empty()) fields += ",";
    fields += quoted(key) + ":" + value;
    return *this;
}

Row& Row::text(const std::string& key, const std::string& value) { return raw(key, quoted(value)); }
Row& Row::count(const std::string& key, uint64_t value) { return raw(key, std::to_string(value)); }

Row& Row::number(const std::string& key, double value) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", value);
    return raw(key, digits);
}
