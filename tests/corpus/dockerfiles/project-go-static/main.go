package main // stands for a program
