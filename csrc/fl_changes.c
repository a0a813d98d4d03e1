#include "fl_changes.h"
